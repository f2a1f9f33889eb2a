"""A checkpoint of the warm-up: what was trained, Adam moments by parameter name, step, mean learning rate.

    <folder>/adapter_config.json, adapter_model.safetensors    of LoRA, as PEFT writes them
             config.json, model.safetensors, …                 of full tuning, as transformers writes a model
             adam.safetensors                                  exp_avg/<name>, exp_avg_sq/<name>
             checkpoint.json                                   the rest

A weight that several layers share has one name, that of the first in the model's order. A folder appears under its name
only when it is whole; on an object store it is whole when checkpoint.json is there, which comes last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tamis.errors import DamagedError, ModelError, StoreError
from tamis.model.load import ModelSource, attach_adapter, load_base, refuse_full, trainable
from tamis.remote import Place, RemotePath, local
from tamis.remote.folders import upload


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Hyperparameters. batch_size is of one optimizer step; micro_batch_size rows go through the model at once."""

    epochs: int
    learning_rate: float
    batch_size: int
    micro_batch_size: int
    warmup_ratio: float
    weight_decay: float
    seed: int
    activation_checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """See the module's page. `fingerprint` is a 128-bit digest of the base model, weights, moments and step."""

    folder: Place
    step: int
    mean_learning_rate: float
    betas: tuple[float, float]
    eps: float
    base_digest: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's running moments of each trainable parameter (flattened), and what turns them into a step."""

    exp_avg: dict[str, Float32[Tensor, " param"]]
    exp_avg_sq: dict[str, Float32[Tensor, " param"]]
    step: int
    betas: tuple[float, float]
    eps: float


def _fingerprint(tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].detach().float().cpu().numpy())
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_checkpoint(
    folder: Place, model: nn.Module, optimizer: torch.optim.Optimizer, *, mean_learning_rate: float, base_digest: str
) -> Checkpoint:
    """Write a checkpoint of a PEFT model, or of a whole one, and its Adam optimizer; whole or absent."""
    names = {parameter: name for name, parameter in trainable(model).items()}
    tensors: dict[str, Tensor] = {}
    steps: set[int] = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not {"step", "exp_avg", "exp_avg_sq"} <= state.keys():
                raise StoreError(f"{names[parameter]}: expected Adam moments, the optimizer holds {sorted(state)}")
            steps.add(int(state["step"]))
            for kind in ("exp_avg", "exp_avg_sq"):
                tensors[f"{kind}/{names[parameter]}"] = state[kind].detach().float().cpu().contiguous()
    if len(steps) != 1:
        raise StoreError(f"expected every parameter at one step, found steps {sorted(steps)}")
    group = optimizer.param_groups[0]
    facts = {
        "step": steps.pop(),
        "mean_learning_rate": mean_learning_rate,
        "betas": [float(b) for b in group["betas"]],
        "eps": float(group["eps"]),
        "base_digest": base_digest,
    }
    return _save(folder, model, tensors, facts)


def save_untrained(folder: Place, model: nn.Module, *, mean_learning_rate: float, base_digest: str) -> Checkpoint:
    """Write a checkpoint of a model before any training: moments all zero, at step 0, of AdamW's default betas."""
    moments = {
        f"{kind}/{name}": torch.zeros(parameter.shape)
        for name, parameter in trainable(model).items()
        for kind in ("exp_avg", "exp_avg_sq")
    }
    facts = {
        "step": 0,
        "mean_learning_rate": mean_learning_rate,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "base_digest": base_digest,
    }
    return _save(folder, model, moments, facts)


def _save(folder: Place, model: nn.Module, moments: dict[str, Tensor], facts: dict[str, Any]) -> Checkpoint:
    parameters = trainable(model)

    def save_adapter(target: Path) -> None:
        model.save_pretrained(target)  # type: ignore[operator]
        (target / "README.md").unlink(missing_ok=True)  # PEFT's model card: nothing but placeholders

    def save_whole(target: Path) -> None:
        # One file, each weight once, under the names that the moments have: some families' own format has others
        others = set(dict(model.named_parameters(remove_duplicate=False))) - set(parameters)
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in others}
        save: Any = model.save_pretrained
        save(target, state_dict=state, max_shard_size=2**62, save_original_format=False)

    weights = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
    is_adapter = hasattr(model, "peft_config")
    return write_checkpoint(folder, moments, weights, facts, save_adapter if is_adapter else save_whole)


def write_checkpoint(
    folder: Place,
    moments: dict[str, Tensor],
    weights: dict[str, Tensor],
    facts: dict[str, Any],
    save_weights: Callable[[Path], None],
) -> Checkpoint:
    """Write a checkpoint from its parts, whole or absent; save_weights writes the files of `weights` into a folder."""
    if isinstance(folder, RemotePath):
        with TemporaryDirectory(prefix="tamis-") as scratch:
            here = Path(scratch, folder.name)
            write_checkpoint(here, moments, weights, facts, save_weights)
            upload(here, folder, last="checkpoint.json")
        return read_checkpoint(folder)
    fingerprint = _fingerprint({**moments, **weights}, {k: v for k, v in facts.items() if "rate" not in k})
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_weights(temporary)
    save_file(moments, temporary / "adam.safetensors")
    (temporary / "checkpoint.json").write_text(json.dumps({**facts, "fingerprint": fingerprint}, indent=2) + "\n")
    for path in filter(Path.is_file, temporary.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return read_checkpoint(folder)


def read_checkpoint(folder: Place) -> Checkpoint:
    """The facts of a checkpoint, without its tensors."""
    path = folder / "checkpoint.json"
    try:
        facts = json.loads(path.read_text())
        return Checkpoint(**{**facts, "folder": folder, "betas": (facts["betas"][0], facts["betas"][1])})
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no checkpoint here (no checkpoint.json); `tamis warmup` makes them") from error
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DamagedError(f"{path}: cannot be read ({error}); remove {folder} and run `tamis warmup` again") from error


def load_model_at(source: ModelSource, checkpoint: Checkpoint) -> nn.Module:
    """The model as it was at a checkpoint, in evaluation mode; what was trained is trainable, in the base's dtype."""
    weights = load_weights(checkpoint)  # a damaged file is named before PEFT stumbles over it
    if not _is_full(checkpoint):
        return attach_adapter(load_base(source), local(checkpoint.folder))
    refuse_full(source)
    model = load_base(source).requires_grad_(True)
    parameters = trainable(model)
    for name in sorted(parameters.keys() | weights.keys()):
        found, wanted = (tuple(held[name].shape) if name in held else "none" for held in (weights, parameters))
        if found != wanted:
            raise ModelError(f"{checkpoint.folder}: {name} has shape {found}, that of {source.name} has {wanted}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model


def _is_full(checkpoint: Checkpoint) -> bool:
    return (checkpoint.folder / "config.json").is_file()


def finished_checkpoints(folder: Place) -> list[Checkpoint]:
    """The epochs 1, 2, … that a training in this folder has finished, in order; epoch 0 where there is no training."""
    if _is_there(folder / "epoch-0"):
        return [read_checkpoint(folder / "epoch-0")]
    done: list[Checkpoint] = []
    while _is_there(path := folder / f"epoch-{len(done) + 1}"):
        done.append(read_checkpoint(path))
    return done


def _is_there(folder: Place) -> bool:
    return (folder / "checkpoint.json").is_file() if isinstance(folder, RemotePath) else folder.is_dir()


def load_weights(checkpoint: Checkpoint) -> dict[str, Float32[Tensor, "..."]]:
    """What was trained, by stable name, float32: an adapter's weights or all of the model's."""
    if _is_full(checkpoint):
        weights = _load(checkpoint, "model.safetensors")
        return {name: weights[name].float() for name in _trained_names(checkpoint) if name in weights}
    return {name: tensor.float() for name, tensor in _load(checkpoint, "adapter_model.safetensors").items()}


def load_moments(checkpoint: Checkpoint, device: torch.device) -> Moments:
    """Adam's moments, flattened, on a device; checked against the fingerprint (as are the weights)."""
    adam = _load(checkpoint, "adam.safetensors")
    facts = {k: v for k, v in asdict(checkpoint).items() if k in ("step", "betas", "eps", "base_digest")}
    found = _fingerprint({**adam, **load_weights(checkpoint)}, {**facts, "betas": list(checkpoint.betas)})
    if found != checkpoint.fingerprint:
        raise DamagedError(
            f"{checkpoint.folder}: expected fingerprint {checkpoint.fingerprint}, its files give {found}; "
            "remove the folder and run `tamis warmup` again"
        )
    return Moments(
        exp_avg=_named(adam, "exp_avg", device),
        exp_avg_sq=_named(adam, "exp_avg_sq", device),
        step=checkpoint.step,
        betas=checkpoint.betas,
        eps=checkpoint.eps,
    )


def _named(adam: dict[str, Tensor], kind: str, device: torch.device) -> dict[str, Tensor]:
    return {n.removeprefix(f"{kind}/"): t.flatten().to(device) for n, t in adam.items() if n.startswith(f"{kind}/")}


def _trained_names(checkpoint: Checkpoint) -> list[str]:
    """A model's file may hold buffers too."""
    try:
        with safe_open(local(checkpoint.folder) / "adam.safetensors", "pt") as adam:
            return [name.removeprefix("exp_avg/") for name in adam.keys() if name.startswith("exp_avg/")]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(checkpoint.folder / "adam.safetensors", error) from error


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    try:
        return load_file(local(checkpoint.folder) / name)
    except (OSError, SafetensorError) as error:
        raise _unreadable(checkpoint.folder / name, error) from error


def _unreadable(path: Place, error: Exception) -> DamagedError:
    return DamagedError(f"{path}: cannot be read ({error}); remove its folder and run `tamis warmup` again")
