"""Gradient features against autograd at batch size 1, and what they must not depend on."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import collate, token_batches
from tamis.model.checkpoint import load_moments
from tamis.model.load import LoraSettings, add_lora, attach_adapter, enable_activation_checkpointing, trainable
from tamis.representations.adam import Direction
from tamis.representations.compute import rows_in_batches, unit_rows
from tamis.representations.gradient import GradientFeatures, check_layers
from tamis.representations.projection import projection

from .conftest import Warm, tiny_llama

CPU = torch.device("cpu")
FORMS = ["torch", "less", "sgd", "sign"]


def plain_gradient(model: nn.Module, example: Encoded) -> dict[str, torch.Tensor]:
    """One row, transformers' own loss, autograd."""
    model.zero_grad()
    ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(example.mask)[None], ids, -100)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in trainable(model).items()}


def adam_step(warm: Warm) -> dict[str, torch.Tensor]:
    """−Δθ/lr of torch's own AdamW, from the checkpoint's state and the gradients now in the model."""
    optimizer = torch.optim.AdamW(trainable(warm.model).values(), lr=1e-2, weight_decay=0.0)
    optimizer.load_state_dict(copy.deepcopy(warm.optimizer.state_dict()))
    before = {name: parameter.detach().clone() for name, parameter in trainable(warm.model).items()}
    optimizer.step()
    with torch.no_grad():
        step = {name: (before[name] - parameter) / 1e-2 for name, parameter in trainable(warm.model).items()}
        for name, parameter in trainable(warm.model).items():
            parameter.copy_(before[name])
    return step


def features(warm: Warm, form: str, kind: str = "none", dim: int = 128):
    """The checkpoint as a run loads it: base model, adapter from disk, moments from disk."""
    model = attach_adapter(tiny_llama(), warm.checkpoint.folder)
    moments = load_moments(warm.checkpoint, CPU) if form in ("torch", "less") else None
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    return model, GradientFeatures(model, Direction(form, moments), projection(kind, dim, 0, sizes, CPU))


def flat(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([parts[name].flatten() for name in sorted(parts)])


@pytest.mark.parametrize("form", FORMS)
def test_equal_to_autograd_at_batch_size_1(warm, form):
    rows = []
    for example in warm.examples:
        gradient = plain_gradient(warm.model, example)
        if form == "torch":
            rows.append(flat(adam_step(warm)))
        elif form == "less":
            state = {n: warm.optimizer.state[p] for n, p in trainable(warm.model).items()}
            rows.append(
                flat(
                    {
                        n: (0.9 * state[n]["exp_avg"] + 0.1 * g)
                        / (0.999 * state[n]["exp_avg_sq"] + 0.001 * g**2 + 1e-8).sqrt()
                        for n, g in gradient.items()
                    }
                )
            )
        else:
            rows.append(flat(gradient) if form == "sgd" else flat(gradient).sign())
    _, extractor = features(warm, form)
    with extractor:
        found = extractor(collate(warm.examples, CPU))
    expected = torch.stack(rows)
    if form == "sign":  # a coordinate that is zero to rounding may have either sign
        assert (found != expected).float().mean() < 1e-3
    else:
        error = (found - expected).norm(dim=1) / expected.norm(dim=1)
        # Adam divides by √v' + ε: where both are tiny, rounding of the step taken above (Δθ/lr) is what is compared.
        assert error.max() < (2e-3 if form == "torch" else 2e-5), error


@pytest.mark.parametrize("kind", ["sketch", "rademacher"])
def test_projected_inside_the_backward_pass_as_outside(warm, kind):
    _, whole = features(warm, "torch")
    model, projected = features(warm, "torch", kind)
    with whole:
        rows = whole(collate(warm.examples, CPU))
    with projected:
        found = projected(collate(warm.examples, CPU))
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    project, expected, start = projection(kind, 128, 0, sizes, CPU), torch.zeros(len(rows), 128), 0
    for name in sorted(sizes):
        project.add_(expected, name, 0, rows[:, start : start + sizes[name]].clone())
        start += sizes[name]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_independent_of_padding_batch_composition_and_order(warm):
    _, extractor = features(warm, "torch", "sketch")
    with extractor:
        together = rows_in_batches(extractor.rows, warm.examples, [list(range(8))], lambda _: None)
        alone = rows_in_batches(extractor.rows, warm.examples, [[i] for i in range(8)], lambda _: None)
        order = [5, 2, 7, 0, 3, 6, 1, 4]
        examples, batches = [warm.examples[i] for i in order], [[0, 3, 5], [1, 2], [4, 6, 7]]
        shuffled = rows_in_batches(extractor.rows, examples, batches, lambda _: None)
        again = rows_in_batches(extractor.rows, warm.examples, [list(range(8))], lambda _: None)
    scale = np.abs(together).max()
    np.testing.assert_allclose(alone, together, atol=2e-4 * scale)
    np.testing.assert_allclose(shuffled, together[order], atol=2e-4 * scale)
    assert np.array_equal(again, together), "the same batches must give the same bytes"


def test_activation_checkpointing_changes_nothing_but_memory(warm):
    _, plain = features(warm, "torch", "sketch")
    model, recomputing = features(warm, "torch", "sketch")
    enable_activation_checkpointing(model)
    n_forward = 0

    def count(*_):
        nonlocal n_forward
        n_forward += 1

    model.base_model.model.model.layers[0].input_layernorm.register_forward_hook(count)
    batch = collate(warm.examples, CPU)
    with plain, recomputing:
        n_forward = 0
        found = recomputing(batch)
        assert n_forward == 2, "the layer ran once: nothing was recomputed"
        torch.testing.assert_close(found, plain(batch), rtol=1e-4, atol=1e-5)


def test_bfloat16_agrees_to_its_rounding(warm):
    model = attach_adapter(tiny_llama().to(torch.bfloat16), warm.checkpoint.folder)
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    direction = Direction("sgd")
    _, exact = features(warm, "sgd")
    with exact, GradientFeatures(model, direction, projection("none", 0, 0, sizes, CPU)) as rough:
        batch = collate(warm.examples, CPU)
        cosine = torch.nn.functional.cosine_similarity(exact(batch), rough(batch))
    assert cosine.min() > 0.99


def test_taps_are_gone_and_parameters_trainable_after_use(warm):
    model, extractor = features(warm, "sgd")
    with extractor:
        extractor(collate(warm.examples[:2], CPU))
        assert not trainable(model)
    assert trainable(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert plain_gradient(model, warm.examples[0])


@pytest.mark.parametrize("what", ["dora", "embedding"])
def test_what_cannot_be_handled_is_named_before_any_work(what):
    from peft import LoraConfig, get_peft_model

    if what == "dora":
        model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
        name = "lora_magnitude_vector"
    else:
        model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["embed_tokens"]))
        name = "lora_embedding"
    with pytest.raises(ModelError, match=name):
        GradientFeatures(model, Direction("sgd"), projection("none", 0, 0, {"x": 1}, CPU))


def test_a_layer_called_twice_is_named():
    model = add_lora(tiny_llama(), LoraSettings(2, 4, 0.0, ["q_proj"]), 0)
    layers = model.base_model.model.model.layers
    layers[1].self_attn.q_proj = layers[0].self_attn.q_proj
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    extractor = GradientFeatures(model, Direction("sgd"), projection("none", 0, 0, sizes, CPU))
    with pytest.raises(ModelError, match=r"layers\.0.*ran 2 times"), extractor:
        pass
    with pytest.raises(ModelError, match=r"layers\.0.*ran 2 times"):
        check_layers(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("regroup", "message"),
    [
        (lambda x: x.flatten(0, 1)[:-1], r"expected input \[batch 2, seq, in\], got \(11, 2\)"),
        (lambda x: x.transpose(0, 1).flatten(0, 1), "they differ from autograd's by"),
    ],
)
def test_a_layer_that_regroups_tokens_is_named(monkeypatch, regroup, message):
    """As experts of a mixture do: the adapter sees some of the tokens, or in another order."""
    model = add_lora(tiny_llama(), LoraSettings(2, 4, 0.0, ["down_proj"]), 0)
    mlp = model.base_model.model.model.layers[0].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: x + forward(regroup(x)).mean())
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    extractor = GradientFeatures(model, Direction("sgd"), projection("none", 0, 0, sizes, CPU))
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj.*" + message), extractor:
        pass


def test_moments_of_other_parameters_are_refused(warm):
    model = add_lora(tiny_llama(), LoraSettings(4, 8, 0.0, ["q_proj"]), 0)
    direction = Direction("torch", load_moments(warm.checkpoint, CPU))
    with pytest.raises(ModelError, match="moments and trainable parameters differ, first in"):
        GradientFeatures(model, direction, projection("none", 0, 0, {"x": 1}, CPU))


def test_unit_rows_and_their_norms():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]], dtype=np.float32)
    unit, norm = unit_rows(rows)
    assert unit[0].tolist() == pytest.approx([0.6, 0.8])
    assert norm[0] == 5
    assert norm[1] == 0
    assert np.isnan(norm[2])


def test_advance_gets_every_token_once(warm):
    _, extractor = features(warm, "sgd", "sketch")
    told: list[int] = []
    lengths = [len(e.input_ids) for e in warm.examples]
    with extractor:
        rows_in_batches(extractor.rows, warm.examples, token_batches(lengths, 60), told.append)
    assert sum(told) == sum(lengths)
    assert len(told) > 1
