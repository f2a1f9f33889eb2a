"""Fills a feature store with gradient rows, shard by shard: the function that every engine runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import Attempts, is_out_of_memory, token_batches
from tamis.model.checkpoint import Checkpoint, load_model_at, load_moments, load_weights
from tamis.model.load import (
    ModelSource,
    enable_activation_checkpointing,
    input_device,
    trainable,
)
from tamis.representations.adam import Direction, Form
from tamis.representations.gradient import GradientFeatures, gradient_rows, unit_rows
from tamis.representations.projection import Kind, projection
from tamis.store import FeatureStore

Shard = tuple[str, ...]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class GradientRecipe:
    """What one row of gradient features is, given its example; everything a worker needs to make rows."""

    source: ModelSource
    checkpoint: Checkpoint
    form: Form
    kind: Kind
    dim: int
    projection_seed: int
    template: str  # fingerprint of tokenizer, template and truncation
    max_tokens: int
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """The readable recipe whose digest names the store."""
        projected = {"kind": self.kind, "dim": self.dim, "seed": self.projection_seed}
        return {
            "kind": "gradient",
            "checkpoint": self.checkpoint.fingerprint,
            "base_model": self.checkpoint.base_digest,
            "template": self.template,
            "max_tokens": self.max_tokens,
            "adam": self.form,
            "projection": {"kind": "none"} if self.kind == "none" else projected,
            "dim": self.dim,
            "dtype": self.dtype,
        }


def fill_shards(
    recipe: GradientRecipe,
    store: FeatureStore,
    encode: Callable[[str], Encoded | str],
    *,
    batch_tokens: int,
    activation_checkpointing: bool,
    note: Callable[[str], None],
) -> Callable[[Shard, Advance], int]:
    """A worker that holds the model and computes one shard of ids; it returns how many ids it wrote.

    encode gives an example id's tokens, or the reason why it has none. A shard that another writer has made by now is
    left alone. Where memory runs out, the shard is computed again in batches of half the tokens, and so are those after
    it; `note` gets a sentence about that. ModelError where even single rows are too much.
    """
    model = load_model_at(recipe.source, recipe.checkpoint)
    device = input_device(model)
    if activation_checkpointing:
        enable_activation_checkpointing(model)
    moments = load_moments(recipe.checkpoint, device)  # for sgd and sign too: it checks the adapter's fingerprint
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    project = projection(recipe.kind, recipe.dim, recipe.projection_seed, sizes, device)
    features = GradientFeatures(model, Direction(recipe.form, moments), project)
    features.__enter__()  # the taps stay for as long as the worker lives

    def feature_rows(tokens: list[Encoded], advance: Advance) -> np.ndarray:
        nonlocal batch_tokens
        attempts, lengths = Attempts(advance), [len(e.input_ids) for e in tokens]
        while True:
            batches = token_batches(lengths, batch_tokens)
            try:
                return gradient_rows(features, tokens, batches, device, attempts.new())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it its traceback, which held on to the tensors of the failed batch
            if len(batches[0]) == 1 and len(batches) == len(tokens):
                raise ModelError(
                    f"out of memory with single rows of up to {max(lengths):,} tokens: use a smaller model.max_tokens, "
                    "warmup.activation_checkpointing=true or model.quantization=4bit"
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            widest = max(len(batch) * lengths[batch[0]] for batch in batches)
            note(f"out of memory at {widest:,} tokens a batch: going on with {widest // 2:,}")
            batch_tokens = widest // 2

    def work(ids: Shard, advance: Advance) -> int:
        encoded = {id_: encode(id_) for id_ in ids}
        if store.has(ids):
            advance(sum(len(e.input_ids) for e in encoded.values() if not isinstance(e, str)))
            return 0
        cut = f"no completion token within {recipe.max_tokens} tokens"
        skipped = {id_: e if isinstance(e, str) else cut for id_, e in encoded.items() if _empty(e)}
        good = {id_: e for id_, e in encoded.items() if not isinstance(e, str) and not _empty(e)}
        tokens = list(good.values())
        if tokens:
            rows, norm = unit_rows(feature_rows(tokens, advance))
        else:
            rows, norm = np.zeros((0, recipe.dim), np.float32), np.zeros(0, np.float32)
        skipped |= {id_: reason for id_, n in zip(good, norm, strict=True) if (reason := _bad_norm(float(n)))}
        kept = [i for i, id_ in enumerate(good) if id_ not in skipped]
        n_tokens = np.array([tokens[i].n_supervised for i in kept], dtype=np.int32)
        store.write(ids, rows[kept], norm[kept], n_tokens, [list(good)[i] for i in kept], skipped)
        return len(ids)

    return work


def _empty(encoded: Encoded | str) -> bool:
    return isinstance(encoded, str) or encoded.n_supervised == 0


def _bad_norm(norm: float) -> str | None:
    if not np.isfinite(norm):
        return "the loss or its gradient is not finite"
    return "the gradient is zero" if norm == 0 else None


def feature_dim(kind: Kind, dim: int, checkpoint: Checkpoint) -> int:
    """Length of a row: dim, or without projection the number of adapter parameters."""
    if kind != "none":
        return dim
    return sum(weight.numel() for weight in load_weights(checkpoint).values())
