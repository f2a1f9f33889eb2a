"""Checkpoints of plain Trainer: the same features as tamis's own, and every other thing refused with what was found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from tamis.config import load_config
from tamis.errors import InputError, ModelError
from tamis.model.checkpoint import TrainSettings
from tamis.model.foreign import _by_name, given_checkpoints
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, trainable
from tamis.model.train import train
from tamis.pipeline import Pipeline
from tiny import random_llama

LORA = LoraSettings(rank=4, alpha=8, dropout=0.0, targets="attention")
EPOCHS, RATE, SEED = 2, 1e-3, 3
FILES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "trainer_state.json")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, pool_file: Path) -> dict[str, Path]:
    """One training twice, with one example a step (where the two losses are one): by plain Trainer, and by tamis."""
    folder = tmp_path_factory.mktemp("trained")
    source = ModelSource(str(tiny_model), device="cpu")
    run = Pipeline(load_config(None, {"data.pool": str(pool_file), "model.name": str(tiny_model)}))
    rows = [encoded for _, encoded in run.inputs.warmup_rows()][:6]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}

    trainer = Trainer(
        model=add_lora(load_base(source), LORA, SEED),
        args=TrainingArguments(
            output_dir=str(folder / "plain"),
            num_train_epochs=EPOCHS,
            learning_rate=RATE,
            warmup_steps=0.25,
            weight_decay=0.1,
            per_device_train_batch_size=1,
            save_strategy="epoch",
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=SEED,
            data_seed=SEED,
        ),
        train_dataset=[
            {"input_ids": e.input_ids.tolist(), "labels": np.where(e.mask, e.input_ids, -100).tolist()} for e in rows
        ],
        data_collator=collate,
    )
    trainer.train()
    settings = TrainSettings(EPOCHS, RATE, 1, 1, 0.25, 0.1, SEED)
    model = add_lora(load_base(source), LORA, SEED)
    train(model, rows, settings, folder / "tamis", base_digest=run.inputs.base_digest)
    return {"plain": folder / "plain", "tamis": folder / "tamis"}


@pytest.fixture
def plain(trained: dict[str, Path], tmp_path: Path) -> Path:
    """The first checkpoint of plain Trainer, to be damaged."""
    return Path(shutil.copytree(trained["plain"] / "checkpoint-6", tmp_path / "checkpoint-6"))


@pytest.fixture
def load(tiny_model: Path, tmp_path: Path) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        source = ModelSource(str(tiny_model), device="cpu")
        return given_checkpoints(folder, source, "base", tmp_path / "imports", lambda _: None)

    return read


def test_plain_trainer_gives_the_features_of_the_equivalent_warm_up(
    trained: dict[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    rows: dict[str, list[np.ndarray]] = {}
    checkpoints = {}
    for name, folder in trained.items():
        changes = {"warmup.checkpoints": str(folder), "workspace": str(tmp_path / name)}
        run = Pipeline(load_config(None, {**settings, **changes}))
        checkpoints[name] = run.checkpoints
        ids = run.score().pool.ids
        targets = [e.id for e in run.inputs.target]
        stores = run.representing.stores("gradient", run.inputs.pool, "pool")[0]
        rows[name] = [store.rows(ids) for store in stores]
        of_targets = run.representing.stores("gradient", run.inputs.target, "target")[0]
        rows[name] += [store.rows(targets) for store in of_targets]
    own, foreign = checkpoints["tamis"], checkpoints["plain"]
    assert [c.step for c in own] == [c.step for c in foreign] == [6, 12]
    assert [(c.betas, c.eps, c.base_digest) for c in own] == [(c.betas, c.eps, c.base_digest) for c in foreign]
    np.testing.assert_allclose([c.mean_learning_rate for c in own], [c.mean_learning_rate for c in foreign], rtol=1e-12)
    assert len(rows["plain"]) == len(rows["tamis"]) == 4
    for ours, theirs in zip(rows["tamis"], rows["plain"], strict=True):
        # Weights agree to 1e-8, moments to 1e-6 of their size: the rows differ by the last bit of their float16
        np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=1e-6)


def test_an_import_is_found_again(trained: dict[str, Path], load: Callable[[Path], Any], tmp_path: Path) -> None:
    first = load(trained["plain"])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert load(trained["plain"]) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == times
    assert [checkpoint.folder.name for checkpoint in first] == ["epoch-1", "epoch-2"]
    (alone,) = load(trained["plain"] / "checkpoint-12")
    assert alone.fingerprint == first[1].fingerprint
    (epoch,) = load(trained["tamis"] / "epoch-2")
    assert epoch.folder == trained["tamis"] / "epoch-2"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the optimizer's state."""
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    edit(state)
    torch.save(state, folder / "optimizer.pt")


def swap_moments(state: dict[str, Any]) -> None:
    state["state"][0], state["state"][1] = state["state"][1], state["state"][0]


def every(make: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], object]:
    return lambda state: state["state"].update({key: make(value) for key, value in state["state"].items()})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap_moments, r"exp_avg of .*q_proj.lora_A.weight has shape \(32, 4\), the parameter has \(4, 32\)"),
        (lambda s: s["state"].pop(3), "expected step, exp_avg and exp_avg_sq of .*, found nothing"),
        (lambda s: s["state"][3].pop("exp_avg_sq"), "found step, exp_avg: train the warm-up with optim=adamw_torch"),
        (every(lambda v: {"momentum_buffer": v["exp_avg"]}), "found momentum_buffer, as of SGD with momentum"),
        (every(lambda v: {"state1": v["exp_avg"]}), "found state1, as of an optimizer of bitsandbytes in 8 bits"),
        (every(lambda v: {"step": 1, "exp_avg_sq_row": v["exp_avg"]}), "found step, exp_avg_sq_row, as of Adafactor"),
        (every(lambda v: v | {"step": torch.tensor(5.0)}), "optimizer.pt is of step 5, trainer_state.json of 6"),
        (lambda s: s["state"][0].update(step=torch.tensor(5.0)), "optimizer.pt is of step 5, 6, trainer_state.json"),
        (lambda s: s["param_groups"][0].update(amsgrad=True), "without amsgrad and maximize, found .* amsgrad=True"),
        (lambda s: s["param_groups"][0].pop("amsgrad"), "expected torch's Adam or AdamW"),
        (
            lambda s: s["param_groups"].append(
                {**s["param_groups"][0], "params": [s["param_groups"][0]["params"].pop()]}
            ),
            "16 parameters with weight decay and 0 without, found groups of 15, 1: moments cannot be matched",
        ),
        (lambda s: s.pop("param_groups"), "expected an optimizer's state and param_groups, found state"),
        (lambda s: s.update(extra=Path("x")), "cannot be read as plain tensors .* tamis loads no pickled objects"),
    ],
)
def test_states_that_do_not_fit(
    plain: Path, load: Callable[[Path], Any], tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(plain, edit)
    with pytest.raises(ModelError, match=message):
        load(plain)
    assert not list((tmp_path / "imports").rglob("checkpoint.json"))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_broken_file_is_named(plain: Path, load: Callable[[Path], Any], name: str) -> None:
    data = (plain / name).read_bytes()
    (plain / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=f"{name}.*read"):
        load(plain)
    (plain / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load(plain)


def test_adapters_that_do_not_fit(plain: Path, load: Callable[[Path], Any]) -> None:
    weights = load_file(plain / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, plain / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"{name} has shape .* the adapter was trained on another base model"):
        load(plain)
    config = json.loads((plain / "adapter_config.json").read_text())
    for changes, message in (
        ({"peft_type": "IA3"}, "expected a LoRA adapter, found"),
        ({"use_dora": True}, "expected LoRA matrices alone, found the trainable .*magnitude"),
        ({"target_modules": ["nowhere"]}, "the adapter does not fit the model"),
    ):
        (plain / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ModelError, match=message):
            load(plain)


def test_learning_rates_that_were_not_logged(
    trained: dict[str, Path], load: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained["plain"], tmp_path / "plain"))
    for path in folder.glob("*/trainer_state.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "log_history": []}))
    with pytest.raises(ModelError, match=r"no learning rate is logged after step 0, .* train with logging_steps=1"):
        load(folder)
    (alone,) = load(folder / "checkpoint-6")
    assert alone.mean_learning_rate == 1


def test_sharded_states_are_refused_with_what_consolidates_them(
    plain: Path, load: Callable[[Path], Any], tiny_model: Path
) -> None:
    """The command in the message makes an optimizer.pt that is read."""
    from torch.distributed.checkpoint import FileSystemWriter, save
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    whole = load(plain)
    state = torch.load(plain / "optimizer.pt", weights_only=True)
    (plain / "optimizer.pt").unlink()
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), plain, is_trainable=True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    group = {**state["param_groups"][0], "params": names}
    by_name = {"state": {name: state["state"][i] for i, name in enumerate(names)}, "param_groups": [group]}
    (plain / "optimizer_0").mkdir()
    save(by_name, storage_writer=FileSystemWriter(plain / "optimizer_0"), no_dist=True)
    with pytest.raises(InputError, match=r"sharded FSDP state optimizer_0, .* `python -m .* dcp_to_torch "):
        load(plain)
    dcp_to_torch_save(plain / "optimizer_0", plain / "optimizer.pt")
    (consolidated,) = load(plain)
    assert consolidated.fingerprint == whole[0].fingerprint
    (plain / "global_step6").mkdir()
    with pytest.raises(InputError, match="found a DeepSpeed state"):
        load(plain)


def test_groups_follow_trainer_s_rule_also_where_some_parameters_have_no_decay() -> None:
    model = random_llama(attention_bias=True).requires_grad_(True)
    arguments = TrainingArguments(output_dir="unused", weight_decay=0.1, use_cpu=True, report_to="none")
    optimizer = Trainer(model=model, args=arguments).create_optimizer()
    names = {parameter: name for name, parameter in trainable(model).items()}
    for parameter in names:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    found, _ = _by_name(Path("x"), state, model)
    assert len(state["param_groups"][1]["params"]) > 1
    for parameter, name in names.items():
        assert torch.equal(found[name]["exp_avg"], optimizer.state[parameter]["exp_avg"])
