"""The formulas against the operations that PyTorch counts while the very functions run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tamis.data.chat import Encoded
from tamis.model.batch import collate, example_losses
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, load_full
from tamis.planning.flops import (
    Load,
    encoding,
    forward,
    projecting,
    selector_flops,
    shape_of,
    similarity_flops,
    training,
)
from tamis.planning.rows import load_of
from tamis.representations.hidden import weighted_mean

LORA = LoraSettings(4, 8, 0.0, "attention")
CPU = torch.device("cpu")


def _batch(lengths: tuple[int, ...]) -> list[Encoded]:
    return [Encoded(np.arange(n, dtype=np.int32) % 200 + 3, np.arange(n) >= n // 2, 0) for n in lengths]


def _loaded(model: Any) -> Any:
    model.set_attn_implementation("eager")  # whose products are counted
    return model


def _counted(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def test_forward_is_what_pytorch_counts(tiny_model: Path) -> None:
    source, batch = ModelSource(str(tiny_model), device="cpu"), _batch((60, 48, 31))
    model, shape, load = _loaded(load_base(source)), shape_of(source, LORA), load_of([batch])
    counted = _counted(lambda: example_losses(model, collate(batch, CPU)))
    assert forward(shape, load) == pytest.approx(counted, rel=0.01)
    counted = _counted(lambda: weighted_mean(model, batch, CPU))
    assert forward(shape, load, with_head=False) == pytest.approx(counted, rel=0.01)


def test_training_of_an_adapter_is_what_pytorch_counts(tiny_model: Path) -> None:
    source, batch = ModelSource(str(tiny_model), device="cpu"), _batch((60, 48, 31))
    model, shape = _loaded(add_lora(load_base(source), LORA, 0)), shape_of(source, LORA)
    counted = _counted(lambda: example_losses(model, collate(batch, CPU)).sum().backward())
    # The lowest layer's projections pass no gradient on to the embedding, which is frozen: the formula is above by that
    assert counted < training(shape, load_of([batch])) < 1.15 * counted


def test_training_of_every_weight_is_what_pytorch_counts(tiny_model: Path) -> None:
    source, batch = ModelSource(str(tiny_model), device="cpu"), _batch((60, 48, 31))
    model, shape = _loaded(load_full(source)), shape_of(source, None)
    counted = _counted(lambda: example_losses(model, collate(batch, CPU)).sum().backward())
    assert training(shape, load_of([batch])) == pytest.approx(counted, rel=0.02)


def test_shape_is_that_of_the_loaded_model(tiny_model: Path) -> None:
    source = ModelSource(str(tiny_model), device="cpu")
    model = add_lora(load_base(source), LORA, 0)
    shape = shape_of(source, LORA)
    trained = {n.replace(".default.", "."): p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert shape.trained == trained
    assert shape.n_weights == sum(p.numel() for p in load_base(source).parameters())
    assert not shape.is_full
    assert shape_of(source, None).n_trained == shape.n_weights


def test_a_shape_leaves_the_random_state_alone(tiny_model: Path) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    shape_of(ModelSource(str(tiny_model), device="cpu"), LORA)
    assert torch.equal(torch.rand(3), wanted)


def test_recomputed_activations_cost_a_forward_pass_more(tiny_model: Path) -> None:
    shape = shape_of(ModelSource(str(tiny_model), device="cpu"), LORA)
    load = Load(3.0, 139.0, 180.0, 10800.0, 70.0)
    more = training(shape, load, recomputed=True) - training(shape, load)
    assert more == forward(shape, load, with_adapter=True, with_head=False)


def test_products_are_counted_twice_a_cell() -> None:
    left, right = torch.ones(5, 16), torch.ones(7, 16)
    assert similarity_flops(5, 7, 16, 3) == 3 * _counted(lambda: left @ right.T)


def test_projections(tiny_model: Path) -> None:
    shape = shape_of(ModelSource(str(tiny_model), device="cpu"), LORA)
    signs, gradients = torch.ones(shape.n_trained, 8), torch.ones(4, shape.n_trained)
    assert projecting(shape, 4.0, "rademacher", 8) == _counted(lambda: gradients @ signs)
    assert projecting(shape, 4.0, "sketch", 8) == 2 * 4 * shape.n_trained


def test_an_encoder_s_weights_but_for_those_looked_up() -> None:
    encoder = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 6))
    tokens = torch.zeros(10, dtype=torch.long)
    assert encoding(encoder, Load(n_padded=10.0)) == _counted(lambda: encoder(tokens))


@pytest.mark.parametrize(
    ("selector", "power"),
    [("k_center", 2), ("herding", 2), ("matching_pursuit", 2), ("facility_location", 2), ("unbalanced_transport", 1)],
)
def test_a_selector_s_time_grows_with_the_pool(selector: str, power: int) -> None:
    def of(n: int) -> float:
        return selector_flops(selector, n_targets=3, n_pool=n, dim=8, n_picks=n // 10, options={})

    assert of(2000) == pytest.approx(2**power * of(1000))
