"""A LoRA model with Adam moments, and rows to represent: random, so that nothing is downloaded.

Only shapes, lengths and dtypes decide how long the work takes. Lengths and the supervised share are those of a mixed
pool of instruction data: median 150 tokens, log-normal, the second half of each row supervised. The batches are some
of those that a whole shard is cut into: of fewer rows, sorted by length, far more would be padding.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from benchmarks.common import Settings
from tamis.data.chat import Encoded
from tamis.model.batch import token_batches
from tamis.model.checkpoint import Moments
from tamis.model.load import Dtype, LoraSettings, ModelSource, add_lora, load_base, resolve_dtype, trainable
from tamis.representations.adam import Direction
from tamis.representations.compute import rows_in_batches, unit_rows
from tamis.representations.gradient import GradientFeatures
from tamis.representations.projection import projection
from tamis.settings import RepresentConfig, WarmupConfig

DEFAULTS = RepresentConfig()


@dataclass(frozen=True, slots=True)
class _Shape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab: int


_SHAPES = {
    "tiny": _Shape(32, 64, 2, 4, 128),
    "small": _Shape(256, 688, 4, 8, 4096),
    "7B-shaped": _Shape(4096, 11008, 32, 32, 32000),
}


@dataclass(frozen=True)
class Workload:
    """Everything one run of the gradient stage needs."""

    name: str
    model: nn.Module
    encoded: list[Encoded]
    batches: list[list[int]]
    dim: int
    device: torch.device

    @property
    def n_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(len(e.input_ids) for e in self.encoded)

    @cached_property
    def moments(self) -> Moments:
        """As Adam would leave them: v of the size of m²."""
        m = {name: 1e-4 * torch.randn(p.numel(), device=self.device) for name, p in trainable(self.model).items()}
        return Moments(m, {name: (4 * values).square_() for name, values in m.items()}, 100, (0.9, 0.999), 1e-8)

    @cached_property
    def features(self) -> GradientFeatures:
        """What a tamis worker holds: Adam's directions, sketched."""
        sizes = {name: parameter.numel() for name, parameter in trainable(self.model).items()}
        project = projection("sketch", self.dim, 0, sizes, self.device)
        return GradientFeatures(self.model, Direction("torch", self.moments), project)

    def tamis(self, batches: list[list[int]] | None = None) -> None:
        """Rows of some batches (default: all), as `fill_shards` makes them to write; `features` must be open."""
        unit_rows(rows_in_batches(self.features.rows, self.encoded, batches or self.batches, lambda _: None))


def workload(settings: Settings, *, rank: int, dtype: Dtype, n_batches: int) -> Workload:
    """Random weights (7B-shaped on a GPU), or the model of settings.model; n_batches of a shard, evenly spaced."""
    shape = "tiny" if settings.quick else "7B-shaped" if settings.device.type == "cuda" else "small"
    if settings.model is None:
        base, name = _random_llama(shape, dtype, settings.device), f"random {shape} Llama"
    else:
        base, name = load_base(ModelSource(settings.model, dtype=dtype, device=str(settings.device))), settings.model
    n_parameters = sum(parameter.numel() for parameter in base.parameters())
    vocab: int = base.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    shard = _shard(vocab, n_rows=8, longest=32) if settings.quick else _shard(vocab, DEFAULTS.shard_rows, longest=1024)
    cut = token_batches([len(e.input_ids) for e in shard], settings.batch_tokens)
    n = min(n_batches, len(cut))
    chosen = [cut[(2 * i + 1) * len(cut) // (2 * n)] for i in range(n)]
    encoded = [shard[position] for batch in chosen for position in batch]
    ends = np.cumsum([len(batch) for batch in chosen]).tolist()
    model = _with_adapter(base, rank, WarmupConfig().lora_alpha)
    return Workload(
        name=f"{name}, {n_parameters / 1e6:,.1f} M, {str(model.dtype)[6:]}, LoRA r {rank}",
        model=model,
        encoded=encoded,
        batches=[list(range(*span)) for span in zip([0, *ends[:-1]], ends, strict=True)],
        dim=64 if settings.quick else DEFAULTS.dim,
        device=settings.device,
    )


def _random_llama(name: str, dtype: Dtype, device: torch.device) -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = _SHAPES[name]
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocab,
        tie_word_embeddings=name != "7B-shaped",
    )
    torch.manual_seed(0)
    with device:  # 7B weights are made where they will live
        model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=resolve_dtype(dtype, device)
        )
    return model.requires_grad_(False).eval()


def _with_adapter(base: nn.Module, rank: int, alpha: int) -> nn.Module:
    """As `attach_adapter` leaves a trained adapter: no dropout, B not zero, the base model's dtype."""
    dtype = next(base.parameters()).dtype
    model = add_lora(base, LoraSettings(rank, alpha, 0.0, "attention"), seed=0).eval()
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=1e-3)
        parameter.data = parameter.data.to(dtype)
    return model


def _shard(vocab: int, n_rows: int, longest: int) -> list[Encoded]:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(150), 0.85, n_rows)), 16, longest).astype(int)
    return [Encoded(rng.integers(0, vocab, k, dtype=np.int32), np.arange(k) >= k // 2, 0) for k in lengths.tolist()]
