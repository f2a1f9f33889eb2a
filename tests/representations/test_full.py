"""Gradients of every parameter of whole models, of several families, against autograd at batch size 1."""

import pytest
import torch
from torch import nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import collate
from tamis.model.checkpoint import Moments
from tamis.model.load import LoraSettings, add_lora, enable_activation_checkpointing, trainable
from tamis.representations import gradient as module
from tamis.representations.adam import Direction, Form
from tamis.representations.compute import rows_in_batches
from tamis.representations.gradient import GradientFeatures, check_layers
from tamis.representations.projection import projection

from .families import FAMILIES, family, flat, plain_gradient

CPU = torch.device("cpu")


def features(model: nn.Module, direction: Direction, kind: str = "none", dim: int = 64) -> GradientFeatures:
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    return GradientFeatures(model, direction, projection(kind, dim, 0, sizes, CPU))  # type: ignore[arg-type]


def moments(model: nn.Module) -> Moments:
    """Of the size that gradients here have."""
    rng = torch.Generator().manual_seed(4)
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    return Moments(
        exp_avg={name: 0.05 * torch.randn(size, generator=rng) for name, size in sizes.items()},
        exp_avg_sq={name: 0.01 * torch.rand(size, generator=rng) for name, size in sizes.items()},
        step=7,
        betas=(0.9, 0.99),
        eps=1e-6,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_to_autograd_at_batch_size_1(name: str, examples: list[Encoded]) -> None:
    model = family(name)
    expected = torch.stack([flat(plain_gradient(model, example)) for example in examples])
    assert expected.shape[1] == sum(parameter.numel() for parameter in set(model.parameters()))
    with features(model, Direction("sgd")) as rows_of:
        found = rows_of(collate(examples, CPU))
    assert ((found - expected).norm(dim=1) <= 2e-5 * expected.norm(dim=1)).all()
    start = 0  # a small parameter does not show in the whole
    for part, parameter in sorted(trainable(model).items()):
        mine = slice(start, start := start + parameter.numel())
        error = (found[:, mine] - expected[:, mine]).norm(dim=1)
        assert (error <= 1e-4 * expected[:, mine].norm(dim=1) + 1e-6).all(), part


@pytest.mark.parametrize("form", ["torch", "less", "sgd", "sign"])
@pytest.mark.parametrize("name", ["llama tied", "gpt2: Conv1D, positions"])
def test_directions(name: str, form: Form, examples: list[Encoded]) -> None:
    model = family(name)
    held = moments(model)
    m, v = (torch.cat([part[name] for name in sorted(part)]) for part in (held.exp_avg, held.exp_avg_sq))
    with features(model, Direction(form, held)) as rows_of:
        found = rows_of(collate(examples, CPU))
    for row, example in zip(found, examples, strict=True):
        g = flat(plain_gradient(model, example))
        if form == "torch":
            step_m, step_v = (0.9 * m + 0.1 * g) / (1 - 0.9**8), (0.99 * v + 0.01 * g**2) / (1 - 0.99**8)
            expected = step_m / (step_v.sqrt() + 1e-6)
        elif form == "less":
            expected = (0.9 * m + 0.1 * g) / (0.99 * v + 0.01 * g**2 + 1e-6).sqrt()
        else:
            expected = g if form == "sgd" else g.sign()
        if form == "sign":  # a coordinate that is zero to rounding may have either sign
            assert (row != expected).float().mean() < 2e-3
        else:
            assert (row - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize("name", ["llama tied", "llama untied", "gpt2: Conv1D, positions"])
def test_independent_of_padding_batch_composition_and_parts(
    name: str, examples: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(name)
    extractor = features(model, Direction("torch", moments(model)), "sketch")
    with extractor:
        together = rows_in_batches(extractor.rows, examples, [list(range(8))], lambda _: None)
        alone = rows_in_batches(extractor.rows, examples, [[i] for i in range(8)], lambda _: None)
        mixed = rows_in_batches(extractor.rows, examples, [[5, 2, 7], [0, 3], [6, 1, 4]], lambda _: None)
        monkeypatch.setattr(module, "_PART_BYTES", 3 * 4 * 64 * 32)  # three examples of the embedding at once
        parts = rows_in_batches(extractor.rows, examples, [list(range(8))], lambda _: None)
    for other in (alone, mixed, parts):
        assert abs(other - together).max() <= 2e-4 * abs(together).max()


def test_activation_checkpointing_and_bfloat16(examples: list[Encoded]) -> None:
    exact = family("qwen3: norms of q and k")
    with features(exact, Direction("sgd")) as rows_of:
        expected = rows_of(collate(examples, CPU))
    recomputing, rough = family("qwen3: norms of q and k"), family("qwen3: norms of q and k").to(torch.bfloat16)
    enable_activation_checkpointing(recomputing)
    with features(recomputing, Direction("sgd")) as rows_of:
        torch.testing.assert_close(rows_of(collate(examples, CPU)), expected, rtol=1e-4, atol=1e-5)
    with features(rough, Direction("sgd")) as rows_of:
        assert torch.cosine_similarity(rows_of(collate(examples, CPU)), expected).min() > 0.98


@pytest.mark.parametrize("name", FAMILIES)
def test_the_check_passes_in_bfloat16(name: str) -> None:
    model = family(name).to(torch.bfloat16)
    check_layers(model)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_gradients_that_were_there_stay(examples: list[Encoded]) -> None:
    model = family("llama tied")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    check_layers(model)
    assert all((parameter.grad == 2.0).all() for parameter in model.parameters())  # type: ignore[union-attr]
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())  # type: ignore[attr-defined]


def test_an_adapted_output_layer(examples: list[Encoded]) -> None:
    """It runs on supervised positions alone, without a batch axis."""
    model = add_lora(family("llama untied").requires_grad_(False), LoraSettings(2, 4, 0.0, ["lm_head", "q_proj"]), 0)
    model.eval()
    for name, parameter in trainable(model).items():
        parameter.data += 0.1 if "lora_B" in name else 0.0
    expected = torch.stack([flat(plain_gradient(model, example)) for example in examples])
    with features(model, Direction("sgd")) as rows_of:
        found = rows_of(collate(examples, CPU))
    assert ((found - expected).norm(dim=1) <= 2e-5 * expected.norm(dim=1)).all()


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_mixture_of_experts_is_named() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    settings = {**FAMILIES["llama untied"][1], "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings, decoder_sparse_step=1)).eval()
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.[\s\S]*Use warmup\.tuning=lora"):
        check_layers(model)


def test_a_shared_weight_other_than_the_embeddings_is_named() -> None:
    model = family("llama untied")
    layers = model.model.layers  # type: ignore[union-attr]
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight  # type: ignore[index, union-attr]
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight': it is shared by 2 layers"):
        check_layers(model)


def test_a_layer_that_never_runs_is_named() -> None:
    model = family("llama untied")
    model.model.spare = nn.Linear(4, 4)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"model\.spare\.(weight|bias)': its layer ran 0 times in one pass"):
        check_layers(model)


def test_a_weight_used_beside_its_layer_is_named() -> None:
    """The tap sees the layer's call, and not that the output takes the weight once more."""
    model = family("llama untied")
    mlp = model.model.layers[1].mlp  # type: ignore[index, union-attr]
    forward = mlp.forward
    mlp.forward = lambda x: forward(x) + x @ mlp.up_proj.weight.T[:, :32]
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight': they differ from autograd's by"):
        check_layers(model)


def test_a_norm_that_is_none_is_named() -> None:
    class SquareNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((32,), 1.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight**2 * x

    model = family("llama untied")
    model.model.norm = SquareNorm()  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"'model\.norm\.weight': they differ from autograd's"):
        check_layers(model)


@pytest.mark.parametrize("sabotage", ["doubled", "rows mixed up", "a token lost"])
@pytest.mark.parametrize("name", ["llama tied", "neox: LayerNorm with bias"])
def test_a_wrong_tap_is_caught(name: str, sabotage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis.representations import taps

    right = taps._outer

    def wrong(a: torch.Tensor, b: torch.Tensor, bounds: list[int] | None) -> taps.Gradients:
        if sabotage == "doubled":
            return right(2 * a, b, bounds)
        if sabotage == "rows mixed up":
            return right(a.flip(0), b.flip(0), bounds)
        return right(a[:, 1:], b[:, 1:], bounds) if bounds is None else right(a, b, [0, *bounds[1:-1], bounds[-1] - 1])

    check_layers(family(name))
    monkeypatch.setattr(taps, "_outer", wrong)
    with pytest.raises(ModelError, match=r"cannot form per-example gradients of '.*weight': they differ"):
        check_layers(family(name))
