"""Checkpoints: round trip, stable names, whole or absent, tampering found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from tamis.errors import DamagedError, StoreError
from tamis.model.checkpoint import Checkpoint, load_moments, load_weights, read_checkpoint, save_checkpoint
from tamis.model.load import LoraSettings, ModelSource, add_lora, attach_adapter, load_base, trainable

CPU = torch.device("cpu")
IDS = torch.arange(12)[None] * 7


class Trained(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    checkpoint: Checkpoint


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Trained:
    """Three AdamW steps on one row, saved as epoch-1."""
    model = add_lora(load_base(ModelSource(str(tiny_model))), LoraSettings(4, 8, 0.0, "attention"), seed=0)
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2, betas=(0.8, 0.95), eps=1e-7)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return Trained(model, optimizer, save(tmp_path / "epoch-1", model, optimizer))


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> Checkpoint:
    return save_checkpoint(folder, model, optimizer, **{"mean_learning_rate": 5e-3, "base_digest": "tiny", **changes})


def test_round_trip(trained: Trained, tiny_model: Path, tmp_path: Path) -> None:
    model, optimizer, checkpoint = trained
    assert read_checkpoint(tmp_path / "epoch-1") == checkpoint
    assert (checkpoint.step, checkpoint.mean_learning_rate, checkpoint.base_digest) == (3, 5e-3, "tiny")
    assert (checkpoint.betas, checkpoint.eps) == ((0.8, 0.95), 1e-7)
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == [
        "adam.safetensors", "adapter_config.json", "adapter_model.safetensors", "checkpoint.json",
    ]  # fmt: skip
    moments, weights = load_moments(checkpoint, CPU), load_weights(checkpoint)
    assert (moments.step, moments.betas, moments.eps) == (3, (0.8, 0.95), 1e-7)
    parameters = trainable(model)
    assert set(moments.exp_avg) == set(moments.exp_avg_sq) == set(weights) == set(parameters)
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        assert torch.equal(moments.exp_avg[name], state["exp_avg"].flatten())
        assert torch.equal(moments.exp_avg_sq[name], state["exp_avg_sq"].flatten())
        assert torch.equal(weights[name], parameter)
        assert state["exp_avg_sq"].any()
    again = attach_adapter(load_base(ModelSource(str(tiny_model))), checkpoint.folder)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_names_are_stable(trained: Trained) -> None:
    """They key the moments and the projection's signs: another name is another projection."""
    assert sorted(load_weights(trained.checkpoint)) == sorted(
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight"
        for layer in (0, 1)
        for part in "qkvo"
        for side in "AB"
    )


def test_the_fingerprint_is_of_the_content(trained: Trained, tmp_path: Path) -> None:
    model, optimizer, first = trained
    fingerprint = first.fingerprint
    assert save(tmp_path / "b", model, optimizer).fingerprint == fingerprint
    assert save(tmp_path / "c", model, optimizer, mean_learning_rate=1.0).fingerprint == fingerprint  # is beside it
    assert save(tmp_path / "d", model, optimizer, base_digest="other").fingerprint != fingerprint
    parameter = next(iter(trainable(model).values()))
    for change in ("exp_avg", "exp_avg_sq"):
        optimizer.state[parameter][change][0, 0] += 1
        changed = save(tmp_path / "e", model, optimizer).fingerprint
        assert changed != fingerprint
        fingerprint = changed
    with torch.no_grad():
        parameter[0, 0] += 1
    assert save(tmp_path / "e", model, optimizer).fingerprint != fingerprint


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 4
    path.write_bytes(data)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 3', '"step": 4'))


@pytest.mark.parametrize(
    ("name", "tamper", "message"),
    [
        ("adapter_model.safetensors", flip, "expected fingerprint .*, its files give"),
        ("adam.safetensors", flip, "expected fingerprint .*, its files give"),
        ("checkpoint.json", edit, "expected fingerprint .*, its files give"),
        ("adam.safetensors", Path.unlink, "adam.safetensors: cannot be read"),
        (
            "adapter_model.safetensors",
            lambda path: path.write_bytes(b"cut"),
            "adapter_model.safetensors: cannot be read",
        ),
    ],
)
def test_tampering_is_found(trained: Trained, name: str, tamper: Callable[[Path], Any], message: str) -> None:
    tamper(trained.checkpoint.folder / name)
    with pytest.raises(DamagedError, match=message + r"[\s\S]*remove .* `tamis warmup` again"):
        load_moments(read_checkpoint(trained.checkpoint.folder), CPU)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"betas": 1}', '{"betas": [1]}', '{"betas": [0, 0], "more": 1}'])
def test_facts_that_cannot_be_read_are_damage(trained: Trained, text: str) -> None:
    (trained.checkpoint.folder / "checkpoint.json").write_text(text)
    with pytest.raises(DamagedError, match=r"checkpoint.json: cannot be read .*remove .*run `tamis warmup` again"):
        read_checkpoint(trained.checkpoint.folder)


def test_a_folder_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no checkpoint here \(no checkpoint.json\); `tamis warmup` makes them"):
        read_checkpoint(tmp_path)


def test_it_is_whole_or_absent(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tamis.model.checkpoint.save_file", fail)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path / "epoch-2", *trained[:2])
    assert not (tmp_path / "epoch-2").exists()
    assert save(tmp_path / "epoch-2", *trained[:2]) == replace(trained.checkpoint, folder=tmp_path / "epoch-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-1", "epoch-2"]  # what was left is swept up
    again = save(tmp_path / "epoch-1", *trained[:2], mean_learning_rate=1e-3)
    assert json.loads((again.folder / "checkpoint.json").read_text())["mean_learning_rate"] == 1e-3


def test_an_optimizer_without_adams_moments_is_refused(trained: Trained, tmp_path: Path) -> None:
    model = trained.model
    with pytest.raises(StoreError, match="expected Adam moments, the optimizer holds"):
        save(tmp_path / "x", model, torch.optim.SGD(trainable(model).values(), lr=1.0))
    parameter = next(iter(trainable(model).values()))
    trained.optimizer.state[parameter]["step"] += 1
    with pytest.raises(StoreError, match=r"expected every parameter at one step, found steps \[3, 4\]"):
        save(tmp_path / "x", model, trained.optimizer)
    assert not (tmp_path / "x").exists()
