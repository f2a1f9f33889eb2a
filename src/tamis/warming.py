"""The warm-up: LoRA checkpoints of the base model, trained on a seeded share of the pool, found again or given."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock

from tamis.config import Config, home
from tamis.errors import InputError
from tamis.inputs import Inputs, digest
from tamis.model.checkpoint import Checkpoint, TrainSettings, finished_checkpoints
from tamis.model.foreign import given_checkpoints
from tamis.model.load import LoraSettings, add_lora, load_base
from tamis.progress import Advance

Stage = Callable[[str, int], AbstractContextManager[Advance]]


def warm_up(
    config: Config, inputs: Inputs, workspace: Path, stage: Stage, note: Callable[[str], None]
) -> list[Checkpoint]:
    """The checkpoints of this configuration; what the workspace lacks is trained within a stage."""
    warmup = config.warmup
    if warmup.checkpoints is not None:
        folder, imports = home(warmup.checkpoints), workspace / "checkpoints"
        found = given_checkpoints(folder, inputs.source, inputs.base_digest, imports, note)
        inputs.check_base(found[0].base_digest, warmup.checkpoints)
        return found
    rows = inputs.warmup_rows()
    if warmup.warmup_ratio and warmup.epochs == 1 and len(rows) <= warmup.batch_size:
        raise InputError(
            f"the warm-up on {len(rows)} rows has one step, whose learning rate is 0 because it is the first: "
            "set warmup.epochs=2, or warmup.warmup_ratio=0"
        )
    settings = TrainSettings(
        epochs=warmup.epochs,
        learning_rate=warmup.learning_rate,
        batch_size=warmup.batch_size,
        micro_batch_size=warmup.micro_batch_size,
        warmup_ratio=warmup.warmup_ratio,
        weight_decay=warmup.weight_decay,
        seed=config.seed,
        activation_checkpointing=warmup.activation_checkpointing,
    )
    lora = LoraSettings(warmup.lora_rank, warmup.lora_alpha, warmup.lora_dropout, warmup.lora_targets)
    name = digest(inputs.base_digest, inputs.chat.fingerprint, inputs.dtype, lora, settings, [e.id for e, _ in rows])
    folder = workspace / "checkpoints" / name
    done = finished_checkpoints(folder)
    if len(done) == warmup.epochs:
        note(f"warm-up: {warmup.epochs} epochs found in {folder}")
        return done
    note(f"warm-up: {len(rows):,} examples, {warmup.epochs} epochs" + (f", {len(done)} done before" if done else ""))
    n_tokens = warmup.epochs * sum(len(encoded.input_ids) for _, encoded in rows)
    from tamis.model.train import train
    from tamis.representations.gradient import check_layers

    folder.mkdir(parents=True, exist_ok=True)
    # Another run may be training the same: wait for it, then find its checkpoints. The lock dies with its process.
    with FileLock(folder / "lock"), stage("warm up", n_tokens) as advance:
        model = add_lora(load_base(inputs.source), lora, config.seed)
        check_layers(model)
        return train(
            model,
            [encoded for _, encoded in rows],
            settings,
            folder,
            base_digest=inputs.base_digest,
            advance=advance,
            note=note,
        )
