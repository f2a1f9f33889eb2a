"""Models that do not fit: quantised bases, device maps, activation checkpointing with both."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tamis.config import load_config
from tamis.data.chat import Encoded
from tamis.errors import InputError, ModelError
from tamis.inputs import Inputs
from tamis.model.batch import collate, example_losses
from tamis.model.checkpoint import TrainSettings
from tamis.model.load import (
    LoraSettings,
    ModelSource,
    Quantization,
    add_lora,
    enable_activation_checkpointing,
    load_base,
    trainable,
)
from tamis.model.train import train
from tamis.representations.adam import Direction
from tamis.representations.gradient import GradientFeatures
from tamis.representations.projection import projection
from tiny import random_llama

LORA = LoraSettings(4, 8, 0.0, "attention")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers are as wide as the blocks that bitsandbytes quantises."""
    path = tmp_path_factory.mktemp("model")
    model = random_llama(hidden_size=128, intermediate_size=256, vocab_size=100, initializer_range=0.1)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def rows() -> list[Encoded]:
    rng = np.random.default_rng(0)
    return [Encoded(rng.integers(0, 100, n).astype(np.int32), np.arange(n) >= n // 2, 0) for n in (9, 30, 14)]


def adapted(source: ModelSource) -> nn.Module:
    """With an adapter that is no longer zero."""
    model = add_lora(load_base(source), LORA, seed=0).eval()
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    return model


def features(model: nn.Module, rows: list[Encoded]) -> np.ndarray:
    sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
    with GradientFeatures(model, Direction("sgd"), projection("none", 0, 0, sizes, CPU)) as rows_of:
        return rows_of(collate(rows, CPU)).numpy()


def autograd(model: nn.Module, row: Encoded) -> np.ndarray:
    """Batch size 1, by autograd."""
    model.zero_grad()
    example_losses(model, collate([row], CPU)).sum().backward()
    return np.concatenate([p.grad.flatten().numpy() for _, p in sorted(trainable(model).items())])  # type: ignore[union-attr]


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_rows_of_a_quantised_base_are_its_gradients(
    folder: Path, rows: list[Encoded], quantization: Quantization
) -> None:
    pytest.importorskip("bitsandbytes")
    model = adapted(ModelSource(str(folder), device="cpu", quantization=quantization))
    kinds = {type(module).__name__ for module in model.modules()}
    assert kinds >= {"4bit": {"Linear4bit"}, "8bit": {"Linear8bitLt"}}[quantization]
    found = features(model, rows)
    # LLM.int8 rounds activations to float16 and 8 bits, so a last bit here can be a step there
    tolerance = 1e-5 if quantization == "4bit" else 2e-2
    for row, example in zip(found, rows, strict=True):
        expected = autograd(model, example)
        assert np.linalg.norm(row - expected) <= tolerance * np.linalg.norm(expected)
    whole = features(adapted(ModelSource(str(folder), device="cpu")), rows)
    cosine = np.einsum("rd,rd->r", found, whole) / np.linalg.norm(found, axis=1) / np.linalg.norm(whole, axis=1)
    assert (cosine > 0.7).all()  # random weights suffer most
    assert (cosine < 0.999999).all()
    enable_activation_checkpointing(model)
    again = features(model, rows)
    assert np.linalg.norm(again - found) <= tolerance * np.linalg.norm(found)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_can_be_trained_on(
    folder: Path, rows: list[Encoded], tmp_path: Path, quantization: Quantization
) -> None:
    pytest.importorskip("bitsandbytes")
    model = add_lora(load_base(ModelSource(str(folder), device="cpu", quantization=quantization)), LORA, seed=0)
    before = example_losses(model.eval(), collate(rows, CPU)).mean().item()
    [*_, last] = train(model, rows, TrainSettings(10, 1e-2, 3, 3, 0.0, 0.0, 0), tmp_path, base_digest="x")
    assert last.step == 10
    assert example_losses(model, collate(rows, CPU)).mean().item() < before - 0.1


def test_quantised_features_never_mix_with_others(settings: dict[str, Any]) -> None:
    dtypes = [
        Inputs(load_config(None, {**settings, "model.quantization": kind}), print).dtype
        for kind in ("none", "8bit", "4bit")
    ]
    assert dtypes == ["float32", "float32, 8bit", "float32, 4bit"]


def test_without_bitsandbytes_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'4bit needs bitsandbytes: pip install "tamis\[bnb\]"'):
        load_base(ModelSource(str(folder), quantization="4bit"))


def test_a_device_map_changes_nothing(folder: Path, rows: list[Encoded]) -> None:
    expected = features(adapted(ModelSource(str(folder), device="cpu")), rows)
    for device_map in ("auto", (("model", "cpu"), ("lm_head", "cpu"))):
        assert np.array_equal(features(adapted(ModelSource(str(folder), device_map=device_map)), rows), expected)


def test_offloaded_layers_are_refused(folder: Path) -> None:
    spread = (("model.embed_tokens", "cpu"), ("model.layers", "disk"), ("model.norm", "cpu"), ("lm_head", "cpu"))
    with pytest.raises(ModelError, match=r"on disk, where no gradient can be taken: use model.quantization=4bit"):
        load_base(ModelSource(str(folder), device_map=(*spread, ("model.rotary_emb", "cpu"))))


def test_a_device_and_a_device_map_exclude_each_other() -> None:
    with pytest.raises(InputError, match="expected device or device_map, got 'cpu' and 'auto'"):
        load_config(None, {"model.device": "cpu", "model.device_map": "auto"})
    config = load_config(None, {"model.name": "x", "model.device_map": {"": 0}})
    assert Inputs(config, print).source.device_map == (("", 0),)
