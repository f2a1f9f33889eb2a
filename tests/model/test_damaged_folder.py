"""A model folder that is half copied, of another kind, or with code of its own: one sentence, no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tamis.errors import ModelError
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base, load_tokenizer, max_positions, model_digest


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def narrow_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_a_shard(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def load_all(source: ModelSource) -> None:
    load_tokenizer(source)
    max_positions(source)
    model_digest(source)
    load_base(source)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "cannot load a "),
        (lambda f: halve(f / "config.json"), "cannot load a "),
        (lambda f: (f / "config.json").write_text("[]"), "cannot load a "),
        (lambda f: (f / "config.json").write_text('{"model_type": "nonesuch"}'), "nonesuch"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot load a tokenizer"),
        (lambda f: halve(f / "tokenizer.json"), "cannot load a tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights in safetensors format"),
        (lambda f: halve(f / "model.safetensors"), "cannot load a causal language model"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot load a causal language model"),
        (drop_a_weight, "the weights of 1 parameters are missing, the first is model.layers.0.mlp.up_proj.weight"),
        (narrow_a_weight, "cannot load a causal language model"),
        (lose_a_shard, "cannot load a causal language model"),
        (to_pickle, "no weights in safetensors format"),
    ],
)
def test_a_folder_that_is_not_whole(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_all(ModelSource(str(folder), device="cpu"))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_in_place_of_a_model(tiny_model: Path, tmp_path: Path) -> None:
    model: Any = add_lora(load_base(ModelSource(str(tiny_model))), LoraSettings(2, 4, 0.0, "attention"), 0)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="is a LoRA adapter, expected its base model"):
        max_positions(ModelSource(str(tmp_path / "adapter")))


def test_code_of_its_own_runs_only_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "custom.py").write_text(
        "import pathlib\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "pathlib.Path(__file__).with_name('ran').touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "custom.OwnConfig", "AutoModelForCausalLM": "custom.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    for load in (load_base, max_positions):
        with pytest.raises(ModelError, match="brings code of its own; --trust-remote-code runs it"):
            load(ModelSource(str(folder), device="cpu"))
    assert not list(tmp_path.rglob("ran"))
    source = ModelSource(str(folder), device="cpu", trust_remote_code=True)
    assert type(load_base(source)).__name__ == "OwnModel"
    assert list(tmp_path.rglob("ran"))
