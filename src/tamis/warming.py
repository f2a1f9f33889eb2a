"""The warm-up: checkpoints of the base model, of its LoRA adapter or as a whole, made, found again or given.

It is trained on a seeded share of the pool; without epochs it is the model as it is.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tamis.config import Config
from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.engine import Engine
from tamis.errors import InputError
from tamis.inputs import Inputs, digest
from tamis.model.checkpoint import Checkpoint, TrainSettings, finished_checkpoints, save_untrained
from tamis.model.foreign import given_checkpoints
from tamis.model.load import LoraSettings, ModelSource, check_number_format, fresh_model, refuse_full
from tamis.progress import Advance, Told
from tamis.remote import Place, locate
from tamis.remote.lease import lock
from tamis.settings import TrainingConfig
from tamis.store.files import put

Stage = Callable[[str, int], AbstractContextManager[Advance]]


def warm_up(
    config: Config, inputs: Inputs, workspace: Place, engine: Engine, stage: Stage, note: Callable[[str], None]
) -> list[Checkpoint]:
    """The checkpoints of this configuration; what the workspace lacks a worker of the engine trains, within a stage."""
    warmup = config.warmup
    if warmup.checkpoints is not None:
        folder, imports = locate(warmup.checkpoints), workspace / "checkpoints"
        found = given_checkpoints(folder, inputs.source, inputs.base_digest, imports, note)
        inputs.check_base(found[0].base_digest, warmup.checkpoints)
        for checkpoint in found:
            _remember(workspace / "checkpoints", checkpoint)
        return found
    lora = adapter(warmup)
    if lora is None:
        refuse_full(inputs.source)
    if warmup.epochs == 0:
        return [_untrained(config, inputs, workspace, engine, stage, note)]
    rows = inputs.warmup_rows(config)
    if warmup.warmup_ratio and warmup.epochs == 1 and len(rows) <= warmup.batch_size:
        raise InputError(
            f"the warm-up on {len(rows)} rows has one step, whose learning rate is 0 because it is the first: "
            "set warmup.epochs=2, or warmup.warmup_ratio=0"
        )
    settings = hyperparameters(warmup, config.seed)
    folder = trained_folder(config, inputs, workspace, rows)
    done = finished_checkpoints(folder)
    if len(done) == warmup.epochs:
        note(f"warm-up: {warmup.epochs} epochs found in {folder}")
        return done
    note(f"warm-up: {len(rows):,} examples, {warmup.epochs} epochs" + (f", {len(done)} done before" if done else ""))
    n_tokens = warmup.epochs * sum(len(encoded.input_ids) for _, encoded in rows)
    folder.mkdir(parents=True, exist_ok=True)
    # Another run may be training the same: wait for it, then find its checkpoints. The lock dies with its process.
    with lock(folder / "lock"), stage("warm up", n_tokens) as advance:
        make = partial(_trainer, _model(config, inputs), settings, folder)
        [made] = engine.run(make, [[encoded for _, encoded in rows]], Told(advance, note))
        return made


@dataclass(frozen=True, slots=True)
class _Model:
    """The model that a worker is to train."""

    source: ModelSource
    base_digest: str
    dtype: str
    lora: LoraSettings | None
    seed: int

    def load(self) -> Any:
        """It, with its adapter if it has one. InputError where this process would hold it in another number format."""
        from tamis.representations.gradient import check_layers

        check_number_format(self.source, self.dtype)
        model = fresh_model(self.source, self.lora, self.seed)
        check_layers(model)
        return model


def _model(config: Config, inputs: Inputs) -> _Model:
    return _Model(inputs.source, inputs.base_digest, inputs.dtype, adapter(config.warmup), config.seed)


def _trainer(
    model: _Model, settings: TrainSettings, folder: Place
) -> Callable[[Sequence[Encoded], Told], list[Checkpoint]]:
    from tamis.model.train import train

    def work(rows: Sequence[Encoded], told: Told) -> list[Checkpoint]:
        return train(
            model.load(),
            rows,
            settings,
            folder,
            base_digest=model.base_digest,
            advance=told.advance,
            note=told.note,
        )

    return work


def trained_folder(config: Config, inputs: Inputs, workspace: Place, rows: Sequence[tuple[Example, Encoded]]) -> Place:
    """Where the checkpoints of a warm-up on these rows are kept."""
    settings, lora, ids = hyperparameters(config.warmup, config.seed), adapter(config.warmup), [e.id for e, _ in rows]
    name = digest(inputs.base_digest, inputs.chat.fingerprint, inputs.dtype, lora, settings, ids)
    return workspace / "checkpoints" / name


def untrained_folder(config: Config, inputs: Inputs, workspace: Place) -> Place:
    """Where the checkpoint of a warm-up without epochs is kept."""
    lora, rate = adapter(config.warmup), config.warmup.learning_rate
    return workspace / "checkpoints" / digest("untrained", inputs.base_digest, inputs.dtype, lora, rate, config.seed)


def adapter(training: TrainingConfig) -> LoraSettings | None:
    """The adapter that is trained; None: every weight is."""
    if training.tuning == "full":
        return None
    return LoraSettings(training.lora_rank, training.lora_alpha, training.lora_dropout, training.lora_targets)


def hyperparameters(training: TrainingConfig, seed: int) -> TrainSettings:
    """Those of the loop."""
    return TrainSettings(
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        warmup_ratio=training.warmup_ratio,
        weight_decay=training.weight_decay,
        seed=seed,
        activation_checkpointing=training.activation_checkpointing,
    )


def _untrained(
    config: Config, inputs: Inputs, workspace: Place, engine: Engine, stage: Stage, note: Callable[[str], None]
) -> Checkpoint:
    """The checkpoint `epoch-0` of a warm-up without epochs; no row of the pool has a part in it."""
    folder = untrained_folder(config, inputs, workspace)
    if done := finished_checkpoints(folder):
        note(f"no warm-up: {done[0].folder} found")
        return done[0]
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"), stage("warm up", 0):
        if done := finished_checkpoints(folder):
            return done[0]
        make = partial(_saver, _model(config, inputs), folder / "epoch-0")
        [made] = engine.run(make, [config.warmup.learning_rate], Told())
    note(f"no warm-up: gradients are taken at {made.folder}")
    return made


def _saver(model: _Model, folder: Place) -> Callable[[float, Told], Checkpoint]:
    def work(rate: float, _: Told) -> Checkpoint:
        return save_untrained(folder, model.load(), mean_learning_rate=rate, base_digest=model.base_digest)

    return work


def _remember(folder: Place, checkpoint: Checkpoint) -> None:
    """Note in the workspace a checkpoint that is kept elsewhere: its features are not to be taken for leftovers."""
    path = folder / f"given-{checkpoint.fingerprint}.json"
    if not str(checkpoint.folder.absolute()).startswith(f"{folder.absolute()}/") and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = {"folder": str(checkpoint.folder.absolute()), "fingerprint": checkpoint.fingerprint}
        put(path, (json.dumps(content, indent=2) + "\n").encode())
