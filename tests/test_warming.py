"""Warm-ups other than the usual one: none at all, and of the whole model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tamis.config import load_config
from tamis.errors import DamagedError, InputError, ModelError
from tamis.inputs import Inputs, digest
from tamis.model.checkpoint import (
    TrainSettings,
    finished_checkpoints,
    load_model_at,
    load_moments,
    load_weights,
    read_checkpoint,
)
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, load_full, trainable
from tamis.pipeline import Pipeline, select
from tamis.representations.adam import Direction
from tiny import random_llama

CPU = torch.device("cpu")


def epochs_of(workspace: Path) -> list[Path]:
    return sorted((workspace / "checkpoints").glob("*/epoch-*"))


@pytest.mark.parametrize("form", ["torch", "less", "sgd", "sign"])
def test_without_warm_up(settings: dict[str, Any], recorder: Any, tmp_path: Path, form: str) -> None:
    wanted = {**settings, "warmup.epochs": 0, "represent.adam": form, "workspace": str(tmp_path)}
    first, second = recorder(), recorder()
    picked = select(load_config(None, wanted), first)
    assert len(picked.examples) == 6
    [folder] = epochs_of(tmp_path)
    [checkpoint] = finished_checkpoints(folder.parent)
    assert (checkpoint.folder.name, checkpoint.step, checkpoint.mean_learning_rate) == ("epoch-0", 0, 1e-2)
    moments = load_moments(checkpoint, CPU)
    assert not any(moment.any() for moment in [*moments.exp_avg.values(), *moments.exp_avg_sq.values()])
    written = (folder / "checkpoint.json").stat().st_mtime_ns

    again = select(load_config(None, wanted), second)
    assert [example.id for example in again.examples] == [example.id for example in picked.examples]
    assert "warm up" in first.stages
    assert second.stages == ["read", "filter", "pick"]
    assert any("no warm-up" in note and "found" in note for note in second.notes)
    assert (folder / "checkpoint.json").stat().st_mtime_ns == written


def test_without_warm_up_the_direction_is_adams_first_step(
    tiny_model: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = load_config(None, {**settings, "warmup.epochs": 0, "workspace": str(tmp_path)})
    [checkpoint] = Pipeline(config).warm_up()
    model = load_model_at(ModelSource(str(tiny_model)), checkpoint)
    fresh = trainable(add_lora(load_base(ModelSource(str(tiny_model))), LoraSettings(4, 8, 0.1, "attention"), 0))
    assert all(torch.equal(parameter, fresh[name]) for name, parameter in trainable(model).items())
    direction = Direction("torch", load_moments(checkpoint, CPU))
    name = next(iter(fresh))
    gradient = torch.randn(3, fresh[name].numel(), generator=torch.Generator().manual_seed(0))
    gradient[0, :5] = 0
    optimizer = torch.optim.AdamW([parameter := fresh[name].detach().clone().requires_grad_()], 1e-2, weight_decay=0.0)
    before = parameter.detach().clone()
    parameter.grad = gradient[0].view_as(parameter)
    optimizer.step()
    step = (before - parameter.detach()).flatten() / 1e-2
    found = direction.apply_(name, 0, gradient.clone())
    torch.testing.assert_close(found, gradient / (gradient.abs() + 1e-8))
    torch.testing.assert_close(found[0], step, rtol=1e-3, atol=1e-4)


def test_without_warm_up_the_pool_has_no_part_in_it(
    settings: dict[str, Any], target_file: Path, tmp_path: Path
) -> None:
    wanted = {**settings, "warmup.epochs": 0, "workspace": str(tmp_path)}
    [first] = Pipeline(load_config(None, wanted)).warm_up()
    [second] = Pipeline(load_config(None, {**wanted, "data.pool": str(target_file), "data.target": []})).warm_up()
    assert first == second
    [other] = Pipeline(load_config(None, {**wanted, "seed": 1})).warm_up()
    assert other.fingerprint != first.fingerprint
    [given] = Pipeline(load_config(None, {**wanted, "warmup.checkpoints": str(first.folder.parent)})).warm_up()
    assert given == first


def test_the_name_of_a_warm_up_of_an_adapter_is_what_it_was(finished: Path, settings: dict[str, Any]) -> None:
    """A workspace that an earlier version made is found again."""
    inputs = Inputs(load_config(None, settings), print)
    train = TrainSettings(2, 1e-2, 4, 4, 0.03, 0.0, 0)
    lora = LoraSettings(4, 8, 0.1, "attention")
    ids = [example.id for example, _ in inputs.warmup_rows()]
    name = digest(inputs.base_digest, inputs.chat.fingerprint, inputs.dtype, lora, train, ids)
    assert [path.name for path in (finished / "ws" / "checkpoints").iterdir()] == [name]


# ---- of the whole model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(settings: dict[str, Any], tiny_model: Path) -> dict[str, Any]:
    return {**settings, "warmup.tuning": "full", "warmup.learning_rate": 1e-3, "model.name": str(tiny_model)}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with one weight for embedding and head."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    shutil.copytree(tiny_model, folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    random_llama(**{**json.loads((folder / "config.json").read_text()), "tie_word_embeddings": True}).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("is_tied", [False, True])
def test_full_tuning(
    full: dict[str, Any], tiny_model: Path, tied: Path, recorder: Any, tmp_path: Path, is_tied: bool
) -> None:
    base = tied if is_tied else tiny_model
    wanted = {**full, "model.name": str(base), "workspace": str(tmp_path / "ws")}
    first, second = recorder(), recorder()
    picked = select(load_config(None, wanted), first)
    again = select(load_config(None, wanted), second)
    assert [example.id for example in again.examples] == [example.id for example in picked.examples]
    assert second.stages == ["read", "filter", "pick"]

    done = finished_checkpoints(epochs_of(tmp_path / "ws")[0].parent)
    assert [checkpoint.step for checkpoint in done] == [3, 6]
    names = sorted(path.name for path in done[1].folder.iterdir())
    assert names == [
        "adam.safetensors",
        "checkpoint.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    source = ModelSource(str(base))
    start, model = trainable(load_full(source)), load_model_at(source, done[1])
    moments, weights, parameters = load_moments(done[1], CPU), load_weights(done[1]), trainable(model)
    assert set(moments.exp_avg) == set(weights) == set(parameters) == set(start)
    assert ("lm_head.weight" in start) is not is_tied
    assert not model.training
    for name, parameter in parameters.items():
        assert torch.equal(parameter, weights[name])
        assert not torch.equal(parameter, start[name]), name
        assert moments.exp_avg_sq[name].any(), name
    # Transformers reads it as a model
    ids = torch.arange(12)[None] * 7
    alone = AutoModelForCausalLM.from_pretrained(done[1].folder).eval()
    with torch.no_grad():
        assert torch.equal(alone(input_ids=ids).logits, model(input_ids=ids).logits)


def test_full_tuning_interrupted_and_resumed(full: dict[str, Any], tied: Path, recorder: Any, tmp_path: Path) -> None:
    full = {**full, "model.name": str(tied)}
    whole = select(load_config(None, {**full, "workspace": str(tmp_path / "whole")}))
    cut = load_config(None, {**full, "workspace": str(tmp_path / "cut")})
    with pytest.raises(KeyboardInterrupt):
        select(cut, recorder(("warm up", 6)))  # in the second epoch
    assert [path.name for path in epochs_of(tmp_path / "cut")] == ["epoch-1"]
    resumed = select(cut, progress := recorder())
    assert any("1 done before" in note for note in progress.notes)
    facts = [
        [path.joinpath("checkpoint.json").read_text() for path in epochs_of(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert facts[0] == facts[1]
    assert [e.id for e in resumed.examples] == [e.id for e in whole.examples]
    assert resumed.scores == whole.scores


def test_full_tuning_trains_in_float32_and_takes_gradients_in_the_dtype(full: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(None, {**full, "model.dtype": "bfloat16", "workspace": str(tmp_path)})
    [*_, last] = Pipeline(config).warm_up()
    weights = load_file(last.folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    model = load_model_at(Inputs(config, print).source, last)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(select(config).examples) == 6


def test_without_warm_up_a_full_tuning_is_the_base_model(
    full: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    config = load_config(None, {**full, "warmup.epochs": 0, "workspace": str(tmp_path)})
    assert len(select(config).examples) == 6
    [checkpoint] = Pipeline(config).warm_up()
    base = dict(load_base(ModelSource(str(tiny_model))).named_parameters())
    assert all(torch.equal(weight, base[name]) for name, weight in load_weights(checkpoint).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.quantization": "4bit"}, "model.quantization=4bit are rounded to integers, which have no gradient"),
        ({"model.device_map": "auto"}, "is for a model on one device, got model.device_map=auto"),
    ],
)
def test_what_cannot_be_trained_as_a_whole(full: dict[str, Any], tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(load_config(None, {**full, **change, "workspace": str(tmp_path)}))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "adam.safetensors", "checkpoint.json", "config.json"])
def test_damage_to_a_full_checkpoint_is_found(full: dict[str, Any], tmp_path: Path, name: str) -> None:
    config = load_config(None, {**full, "warmup.epochs": 0, "workspace": str(tmp_path)})
    [checkpoint] = Pipeline(config).warm_up()
    path = checkpoint.folder / name
    path.write_bytes(path.read_bytes()[:-40])
    if name == "config.json":
        path.unlink()
    with pytest.raises(DamagedError, match=r"remove .* and run `tamis warmup` again|remove its folder and run"):
        load_moments(read_checkpoint(checkpoint.folder), CPU)


def test_a_checkpoint_of_another_model_is_refused(full: dict[str, Any], tied: Path, tmp_path: Path) -> None:
    config = load_config(None, {**full, "warmup.epochs": 0, "workspace": str(tmp_path)})
    [checkpoint] = Pipeline(config).warm_up()
    with pytest.raises(ModelError, match=r"lm_head.weight has shape \(\d+, 32\), that of .* has none"):
        load_model_at(ModelSource(str(tied)), checkpoint)
