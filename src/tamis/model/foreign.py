"""Checkpoints that tamis did not write: a LoRA adapter, `optimizer.pt` and `trainer_state.json`.

That is what transformers' Trainer and those built on it (TRL, Axolotl, LLaMA-Factory) leave. They are imported once,
into the form of `tamis.model.checkpoint`; everything after that is the same. The optimizer's state has no names, only
numbers in the order of its parameter groups: Trainer's first group holds the trainable parameters with weight decay in
`named_parameters()` order, its second those without. Counts and shapes are checked against that; a state of another
order with equal counts and shapes cannot be told apart. A state keyed by names (a consolidated FSDP one) is matched by
name.

Not covered: full fine-tuning, DoRA, other adapters than LoRA, other optimizers than Adam and AdamW, runs in float16
whose gradient scaler passed over steps (step counts disagree), states that are still in shards.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tamis.errors import InputError, ModelError
from tamis.model.checkpoint import Checkpoint, finished_checkpoints, read_checkpoint, write_checkpoint
from tamis.model.load import ModelSource, empty_model, quiet_peft, trainable
from tamis.remote import Place, local

_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "module.")


def given_checkpoints(
    folder: Place, source: ModelSource, base_digest: str, imports: Place, note: Callable[[str], None]
) -> list[Checkpoint]:
    """The checkpoints in a folder: a tamis warm-up or one epoch of it, a checkpoint of Trainer's, or a folder of those.

    Checkpoints of Trainer's are imported into a folder under `imports`, where the next run finds them. InputError or
    ModelError, saying what was found, for anything that cannot be imported faithfully.
    """
    if (folder / "checkpoint.json").exists():
        return [read_checkpoint(folder)]
    if done := finished_checkpoints(folder):
        return done
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a warm-up of tamis or checkpoints of transformers' Trainer")
    found = _foreign(local(folder))
    digest = hashlib.blake2b(base_digest.encode(), digest_size=16)
    for path in found:
        _refuse_shards(path)
        for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
            digest.update(_file_digest(path, name))
    target = imports / f"imported-{digest.hexdigest()}"
    done = finished_checkpoints(target)
    if len(done) < len(found):
        states = [_read(path, source) for path in found]
        rates = _learning_rates(states, note)
        for number, (state, rate) in enumerate(zip(states, rates, strict=True), 1):
            _write(target / f"epoch-{number}", state, rate, base_digest)
        done = finished_checkpoints(target)
    steps = ", ".join(str(checkpoint.step) for checkpoint in done)
    note(f"checkpoints: {len(done)} of {folder}, at step {steps}, imported as {target}")
    return done


def _foreign(folder: Path) -> list[Path]:
    if any((folder / name).exists() for name in ("adapter_config.json", "optimizer.pt", "trainer_state.json")):
        return [folder]
    steps = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.match(r"checkpoint-(\d+)$", path.name))
    }
    if not steps:
        raise InputError(
            f"{folder}: expected a warm-up of tamis (epoch-1, epoch-2, …) or a checkpoint of transformers' Trainer "
            "(adapter_config.json, adapter_model.safetensors, optimizer.pt, trainer_state.json), or a folder of such "
            "checkpoint-N, found none of these"
        )
    return [steps[step] for step in sorted(steps)]


def _refuse_shards(folder: Path) -> None:
    """Sharded states come with a pickled index (FSDP), or in a layout only DeepSpeed reads."""
    sharded = next((path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.distcp"))), None)
    if sharded is not None and not (folder / "optimizer.pt").exists():
        raise InputError(
            f"{folder}: found the sharded FSDP state {sharded.name}, expected optimizer.pt; consolidate it with "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder}/optimizer_0 "
            f"{folder}/optimizer.pt`"
        )
    if any(folder.glob("global_step*")) or (folder / "zero_to_fp32.py").exists():
        raise InputError(
            f"{folder}: found a DeepSpeed state, whose Adam moments lie in shards that only DeepSpeed reads "
            "(zero_to_fp32.py consolidates weights alone); train the warm-up without DeepSpeed, or let `tamis warmup` "
            "train it"
        )


def _file_digest(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        found = sorted(entry.name for entry in folder.iterdir())
        hints = {
            "adapter_config.json": "tamis reads LoRA checkpoints, not those of full fine-tuning",
            "adapter_model.safetensors": "an adapter_model.bin is a pickle: save it with save_safetensors=True",
            "optimizer.pt": "it is not kept with save_only_model=True",
            "trainer_state.json": "it says at which step and learning rate the checkpoint was saved",
        }
        raise InputError(f"{path}: no such file ({hints[name]}); the folder holds {', '.join(found) or 'nothing'}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# ---- reading one checkpoint --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """What was read: moments by parameter name, `group` of the optimizer, (step, rate) of every logged step."""

    folder: Path
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    step: int
    group: Mapping[str, Any]
    logged: list[tuple[int, float]]


def _read(folder: Path, source: ModelSource) -> _State:
    model = _adapted(folder, source)
    shapes = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
    weights = _weights(folder, shapes)
    optimizer = _optimizer(folder)
    states, group = _by_name(folder, optimizer, model)
    moments: dict[str, Tensor] = {}
    steps: set[int] = set()
    for name, shape in shapes.items():
        state = states.get(name) or {}
        if set(state) != _ADAM_STATE:
            _not_adam(folder, name, state)
        steps.add(int(state["step"]))
        for kind in ("exp_avg", "exp_avg_sq"):
            if tuple(state[kind].shape) != shape:
                raise ModelError(
                    f"{folder}/optimizer.pt: {kind} of {name} has shape {tuple(state[kind].shape)}, the parameter has "
                    f"{shape}: the optimizer's state belongs to another adapter"
                )
            moments[f"{kind}/{name}"] = state[kind].detach().float().contiguous()
    trainer = _trainer_state(folder)
    if steps != {trainer["step"]} or not trainer["step"]:
        raise ModelError(
            f"{folder}: optimizer.pt is of step {', '.join(map(str, sorted(steps)))}, trainer_state.json of "
            f"{trainer['step']}: expected one step above 0 in both"
        )
    return _State(folder, weights, moments, trainer["step"], group, trainer["logged"])


def _adapted(folder: Path, source: ModelSource) -> nn.Module:
    """The base model with this adapter's layers, without any weights: for names, order and shapes."""
    from peft import PeftConfig, get_peft_model

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}/adapter_config.json: cannot be read ({' '.join(str(error).split())[:200]})"
        ) from error
    if config.peft_type != "LORA":
        raise ModelError(f"{folder}: expected a LoRA adapter, found {config.peft_type}")
    config.inference_mode = False
    try:
        with torch.device("meta"), quiet_peft():
            model: nn.Module = get_peft_model(empty_model(source), config)
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder}: the adapter does not fit the model {source.name} ({said})") from error
    odd = [name for name in trainable(model) if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd:
        raise ModelError(
            f"{folder}: expected LoRA matrices alone, found the trainable {odd[0]}: train without DoRA, "
            "modules_to_save, trained embeddings and biases"
        )
    return model


def _weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); copy it again") from error
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(found.keys() | shapes.keys()):
        if found.get(name) != shapes.get(name):
            raise ModelError(
                f"{path}: {name} has shape {found.get(name, 'none')}, this model with the adapter's configuration "
                f"{shapes.get(name, 'none')}: the adapter was trained on another base model"
            )
    return weights


def _optimizer(folder: Path) -> dict[str, Any]:
    path = folder / "optimizer.pt"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: cannot be read as plain tensors ({said}); tamis loads no pickled objects: copy the file again, "
            "or save it with torch.save(optimizer.state_dict())"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("state"), dict) or not found.get("param_groups"):
        raise ModelError(f"{path}: expected an optimizer's state and param_groups, found {_shown(found)}")
    return found


def _shown(value: Any) -> str:
    return ", ".join(map(str, list(value)[:6])) if isinstance(value, dict) else type(value).__name__


def _by_name(
    folder: Path, optimizer: dict[str, Any], model: nn.Module
) -> tuple[dict[str, Mapping[str, Any]], Mapping[str, Any]]:
    """The state of each parameter by its name, and the facts of the groups, which must agree."""
    groups = [group for group in optimizer["param_groups"] if group["params"]]
    facts = [{key: group.get(key) for key in ("betas", "eps", "amsgrad", "maximize")} for group in groups]
    if not groups or any(fact != facts[0] for fact in facts):
        raise ModelError(f"{folder}/optimizer.pt: expected parameter groups of one beta and epsilon, found {facts}")
    if facts[0]["amsgrad"] is not False or facts[0]["betas"] is None or facts[0]["maximize"]:
        raise ModelError(
            f"{folder}/optimizer.pt: expected torch's Adam or AdamW without amsgrad and maximize, found an optimizer "
            f"with the settings {_settings(groups[0])}"
        )
    state = optimizer["state"]
    keys = [key for group in groups for key in group["params"]]
    if all(isinstance(key, str) for key in keys):
        return {_plain_name(key): state.get(key, {}) for key in keys}, groups[0]
    with_decay, without = _trainer_groups(model)
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(names) for names in (with_decay, without) if names]:
        raise ModelError(
            f"{folder}/optimizer.pt: expected Trainer's parameter groups, {len(with_decay)} parameters with weight "
            f"decay and {len(without)} without, found groups of {', '.join(map(str, sizes))}: "
            "moments cannot be matched to parameters (LoRA+ and other optimizers with groups of their own are not read)"
        )
    return dict(zip(with_decay + without, (state.get(key, {}) for key in keys), strict=True)), groups[0]


def _trainer_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    """Stable names with and without weight decay, as Trainer puts them into groups, by Trainer's own rule."""
    from transformers import Trainer

    rule: Any = Trainer.get_decay_parameter_names
    decayed = set(rule(None, model))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with_decay = [_plain_name(name) for name in names if name in decayed]
    return with_decay, [_plain_name(name) for name in names if name not in decayed]


def _plain_name(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "") if wrapper != "module." else name.removeprefix(wrapper)
    return name.replace(".default.", ".")


def _settings(group: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in group.items() if key not in ("params", "param_names"))[:200]


def _not_adam(folder: Path, name: str, state: Mapping[str, Any]) -> NoReturn:
    kinds = {
        "momentum_buffer": "SGD with momentum",
        "state1": "an optimizer of bitsandbytes in 8 bits or paged",
        "exp_avg_sq_row": "Adafactor",
        "max_exp_avg_sq": "AMSGrad",
        "mu_product": "NAdam",
        "exp_inf": "Adamax",
    }
    known = next((f", as of {kind}" for key, kind in kinds.items() if key in state), "")
    found = ", ".join(state) or "nothing"
    raise ModelError(
        f"{folder}/optimizer.pt: expected step, exp_avg and exp_avg_sq of {name}, found {found}{known}: train the "
        "warm-up with optim=adamw_torch"
    )


def _trainer_state(folder: Path) -> dict[str, Any]:
    path = folder / "trainer_state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        logged = [(int(e["step"]), float(e["learning_rate"])) for e in state["log_history"] if "learning_rate" in e]
        return {"step": int(state["global_step"]), "logged": logged}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{path}: expected global_step and log_history of Trainer, cannot read them ({error})"
        ) from error


def _learning_rates(states: list[_State], note: Callable[[str], None]) -> list[float]:
    """Of each checkpoint the mean of the learning rates logged since the one before it."""
    rates: list[float] = []
    for previous, state in zip([None, *states], states, strict=False):
        after = previous.step if previous else 0
        logged = [rate for step, rate in state.logged if after < step <= state.step]
        if logged:
            rates.append(sum(logged) / len(logged))
        elif len(states) == 1:
            note(f"checkpoints: {state.folder} has no logged learning rate, and alone needs none")
            rates.append(1.0)
        else:
            raise ModelError(
                f"{state.folder}/trainer_state.json: no learning rate is logged after step {after}, so this checkpoint "
                "has no weight beside the others; train with logging_steps=1, or give one checkpoint folder alone"
            )
    if not sum(rates):
        raise ModelError(f"{states[0].folder}: the logged learning rates are all 0, so the checkpoints have no weight")
    return rates


def _write(folder: Place, state: _State, rate: float, base_digest: str) -> None:
    facts = {
        "step": state.step,
        "mean_learning_rate": rate,
        "betas": [float(beta) for beta in state.group["betas"]],
        "eps": float(state.group["eps"]),
        "base_digest": base_digest,
    }
    write_checkpoint(folder, state.moments, state.weights, facts, partial(_copy_adapter, state.folder))


def _copy_adapter(source: Path, target: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(source / name, target / name)
