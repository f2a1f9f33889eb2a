"""Fine-tuning on a selection: what is trained, what is written, going on after an interruption."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tamis.config import load_config
from tamis.errors import InputError
from tamis.evaluation.loss import losses
from tamis.finetuning import Training, finetune, read_selection, training_rows
from tamis.inputs import Inputs
from tamis.model.checkpoint import TrainSettings
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, trainable
from tamis.model.train import Course, train

Cli = Callable[..., Any]
HOW = {
    "finetune.epochs": 2,
    "finetune.learning_rate": 1e-2,
    "finetune.batch_size": 4,
    "finetune.micro_batch_size": 2,
    "finetune.lora_rank": 4,
    "finetune.lora_alpha": 8,
    "finetune.lora_dropout": 0.0,
}
AS_ARGUMENTS = [f"{key}={value}" for key, value in HOW.items()]


@pytest.fixture
def picked(finished: Path, tmp_path: Path) -> Path:
    """A selection of six rows, one's own copy."""
    return Path(shutil.copytree(finished / "out", tmp_path / "picked"))


@pytest.fixture
def training(picked: Path, tmp_path: Path) -> Callable[..., Training]:
    """training(**changes): on the selection; __ in a name stands for the dot."""

    def make(**changes: Any) -> Training:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return read_selection(picked, None, {**HOW, "workspace": str(tmp_path / "ws"), **named}, lambda _: None)

    return make


def weigh(folder: Path, weights: list[float | None]) -> None:
    table = pq.read_table(folder / "picks.parquet")
    column = table.column_names.index("weight")
    pq.write_table(table.set_column(column, "weight", pa.array(weights, pa.float64())), folder / "picks.parquet")


def by_hand(training: Training, folder: Path, course: Course, seed: int = 0) -> nn.Module:
    source = ModelSource(training.inputs.source.name)
    model = add_lora(load_base(source), LoraSettings(4, 8, 0.0, "attention"), seed)
    train(model, training.rows.encoded, TrainSettings(2, 1e-2, 4, 2, 0.03, 0.0, seed), folder, course=course)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    weights = trainable(second)
    return all(torch.equal(weight, weights[name]) for name, weight in trainable(first).items())


def test_rows_are_those_picked_in_pick_order_and_so_are_weights(
    training: Callable[..., Training], picked: Path, tmp_path: Path
) -> None:
    ids = pq.read_table(picked / "picks.parquet")["id"].to_pylist()
    assert [example.id for example in training().rows.examples] == ids
    assert training().rows.weights is None
    weigh(picked, [3.0, 1.0, None, 0.5, 0.0, 1.5])
    weighted = training()
    assert weighted.rows.weights == [3.0, 1.0, 1.2, 0.5, 0.0, 1.5]  # one included by name has the others' mean
    model = weighted.run(tmp_path / "a")
    assert same(model, by_hand(weighted, tmp_path / "b", Course(weighted.rows.weights)))
    plain = training(finetune__weighted=False).run(tmp_path / "c")
    assert same(plain, by_hand(weighted, tmp_path / "d", Course()))
    assert not same(plain, model)


def test_order_and_steps_are_as_asked_for(training: Callable[..., Training], tmp_path: Path) -> None:
    wanted = training(finetune__order="picked", finetune__steps=3)
    assert wanted.extent == (2, 3)
    model = wanted.run(tmp_path / "a")
    assert same(model, by_hand(wanted, tmp_path / "b", Course(steps=3, shuffled=False)))
    assert not same(model, by_hand(wanted, tmp_path / "c", Course(steps=3)))


def test_the_digest_is_of_all_that_the_weights_depend_on(
    training: Callable[..., Training], picked: Path, tmp_path: Path
) -> None:
    names = [
        training(**changes).digest()
        for changes in (
            {},
            {"seed": 1},
            {"finetune__learning_rate": 1e-3},
            {"finetune__order": "picked"},
            {"finetune__steps": 3},
            {"finetune__lora_rank": 2},
            {"finetune__tuning": "full"},
            {"model__max_tokens": 20},
        )
    ]
    assert len(set(names)) == len(names)
    assert training(workspace=str(tmp_path / "elsewhere"), finetune__merged=True).digest() == names[0]
    weigh(picked, [3.0, 1.0, 1.0, 0.5, 0.0, 1.5])
    assert training().digest() not in names
    assert training(finetune__weighted=False).digest() == names[0]


@pytest.mark.parametrize("kind", ["adapter", "merged", "full"])
def test_what_is_written_is_what_was_trained(
    cli: Cli, picked: Path, tiny_model: Path, tmp_path: Path, training: Callable[..., Training], kind: str
) -> None:
    given = {"adapter": [], "merged": ["--merged"], "full": ["finetune.tuning=full"]}[kind]
    out = tmp_path / "tuned"
    said = cli("finetune", picked, *AS_ARGUMENTS, *given, "--workspace", tmp_path / "ws", "--out", out).stdout
    assert "trained on 6 rows" in said
    assert f"written to {out}: {'an adapter' if kind == 'adapter' else 'a model'}" in said
    wanted = training(**({"finetune__tuning": "full"} if kind == "full" else {}))
    expected = wanted.run(tmp_path / "again")
    base = AutoModelForCausalLM.from_pretrained(tiny_model if kind == "adapter" else out, dtype=torch.float32)
    found = PeftModel.from_pretrained(base, out) if kind == "adapter" else base
    rows = wanted.rows.encoded
    np.testing.assert_allclose(losses(found, rows), losses(expected, rows), rtol=1e-5)
    assert not np.allclose(losses(load_base(ModelSource(str(tiny_model))), rows), losses(expected, rows), rtol=1e-3)
    assert AutoTokenizer.from_pretrained(out).chat_template == wanted.inputs.chat.template
    record = json.loads((out / "manifest.json").read_text())
    assert (record["kind"], record["rows"]["n"], record["training"]["steps"]) == (
        "adapter" if kind == "adapter" else "model",
        6,
        4,
    )
    assert not list((tmp_path / "ws").rglob("epoch-*"))
    assert load_config(out / "config.yaml").finetune == wanted.config.finetune.model_copy(
        update={"merged": kind == "merged"}
    )


def test_another_model_may_be_trained(cli: Cli, picked: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    out = tmp_path / "tuned"
    cli("finetune", picked, *AS_ARGUMENTS, f"finetune.model={other}", "--workspace", tmp_path / "ws", "--out", out)
    assert json.loads((out / "manifest.json").read_text())["base"]["name"] == str(other)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(other)


def test_a_file_of_rows_can_be_trained_on(cli: Cli, pool_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    good = [line for number, line in enumerate(pool_file.read_text().splitlines(), 1) if number != 4]
    rows.write_text("\n".join([good[0], *good]))
    said = cli(
        "finetune", rows, *AS_ARGUMENTS, "--model", tiny_model, "--workspace", tmp_path / "ws", "--out", tmp_path / "t"
    )
    assert "trained on 20 rows" in said.stdout  # of 22 lines; equal rows count
    assert "selection, skipped: 2 rows" in said.stderr
    assert "no completion token in 96" in said.stderr


def test_an_interrupted_training_goes_on_from_its_last_epoch(
    training: Callable[..., Training], recorder: Any, tmp_path: Path
) -> None:
    whole, cut = training(finetune__epochs=3), training(finetune__epochs=3, workspace=str(tmp_path / "cut"))
    shown = recorder()
    finetune(whole, tmp_path / "whole", shown.stage, shown.note)
    stopped = recorder(("fine-tune", 6))  # one call tells what was done before; two steps an epoch
    with pytest.raises(KeyboardInterrupt):
        finetune(cut, tmp_path / "out", stopped.stage, stopped.note)
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "cut").rglob("epoch-*"))) == 2
    again = recorder()
    finetune(cut, tmp_path / "out", again.stage, again.note)
    assert again.notes == ["fine-tune: 2 of 3 epochs were done before"]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_trained_but_not_yet_written(
    training: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    """A full disk at the very end costs nothing."""
    wanted, shown = training(), recorder()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tamis.finetuning._save", full)
        with pytest.raises(OSError, match="No space"):
            finetune(wanted, tmp_path / "out", shown.stage, shown.note)
    assert not (tmp_path / "out").exists()
    again = recorder()
    finetune(wanted, tmp_path / "out", again.stage, again.note)
    assert again.notes == ["fine-tune: 2 of 2 epochs were done before"]
    found = PeftModel.from_pretrained(load_base(wanted.inputs.source), tmp_path / "out")
    expected = losses(wanted.run(tmp_path / "again"), wanted.rows.encoded)
    np.testing.assert_allclose(losses(found, wanted.rows.encoded), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finetune__steps": 1}, "a training on 6 rows for one step has learning rate 0"),
        ({"finetune__merged": True, "model__quantization": "4bit"}, "finetune.merged=true adds the adapter"),
        ({"finetune__tuning": "full", "model__quantization": "4bit"}, "finetune.tuning=full trains all weights"),
    ],
)
def test_what_cannot_be_trained(
    training: Callable[..., Training], tmp_path: Path, recorder: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        finetune(training(**changes), tmp_path / "out", recorder().stage, print)
    assert not (tmp_path / "ws").exists()


def test_weights_that_cannot_be(training: Callable[..., Training], picked: Path) -> None:
    for weights in ([0.0] * 6, [None, None, -1.0, 2.0, 2.0, 2.0]):
        weigh(picked, weights)
        with pytest.raises(InputError, match="expected weights of 0 or more, not all of them 0"):
            training()


def test_a_selection_that_is_none(cli: Cli, picked: Path, tmp_path: Path, tiny_model: Path) -> None:
    lines = (picked / "selected.jsonl").read_text().splitlines(keepends=True)
    (picked / "selected.jsonl").write_text("".join([*lines[1:], lines[0]]))
    assert "row 1: not the row that was picked" in cli("finetune", picked, code=2).stderr
    assert "no such folder or file" in cli("finetune", tmp_path / "nowhere", code=2).stderr
    (tmp_path / "empty").mkdir()
    assert "expected a selection" in cli("finetune", tmp_path / "empty", code=2).stderr


def test_no_row_can_be_trained_on(tiny_model: Path, pool_file: Path) -> None:
    inputs = Inputs(load_config(None, {"data.pool": str(pool_file), "model.name": str(tiny_model)}), lambda _: None)
    [long] = [example for example in inputs.pool if example.row_id == "long"]
    with pytest.raises(InputError, match="none of the 1 rows can be trained on"):
        training_rows(inputs, [long])
