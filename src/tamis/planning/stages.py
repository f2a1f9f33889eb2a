"""The stages that a model works in: the warm-up, and the features of target and pool."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import InputError
from tamis.model.checkpoint import Checkpoint
from tamis.planning import flops as formulas
from tamis.planning import memory
from tamis.planning.disk import checkpoint_bytes, places, store_bytes, temporary_folder
from tamis.planning.flops import Load
from tamis.planning.forecast import Stage
from tamis.planning.found import found_checkpoints, missing
from tamis.planning.limits import no_room
from tamis.planning.probe import Pace, probe_features, probe_untrained, probe_warm_up
from tamis.planning.rows import load_of, micro_batches, shard_batches
from tamis.planning.seen import Seen, What
from tamis.representations.compute import Recipe
from tamis.representations.loss import alone
from tamis.store import files

OF_WARM_UP, OF_FEATURES = 0.5, 0.35  # of the probe's seconds; the rest is for what comes after


# ---- warm-up -------------------------------------------------------------------------------------------------------


def warming_up(seen: Seen, scratch: Path, probe_seconds: float) -> tuple[list[Stage], list[Checkpoint], list[Pace]]:
    """The stage, the checkpoints that features are taken at (stand-ins for those yet to be trained), and the probe."""
    config, warmup = seen.config, seen.config.warmup
    if seen.shape is None or seen.run.method.representation != "gradient":
        return [], [], []
    if (found := found_checkpoints(seen.run, scratch)) is not None:
        return [Stage("warm up", found=len(found))], found, []
    check_room(checkpoint_bytes(seen.shape))
    n_epochs, folder = max(1, warmup.epochs), scratch / "checkpoints"
    if warmup.epochs:
        items, scale = _trained_on(seen)
        rng, micro = np.random.default_rng(config.seed), min(warmup.micro_batch_size, warmup.batch_size)
        load = load_of([b for _ in range(n_epochs) for b in micro_batches(items, micro, rng)], scale)
        pace, saving, made = probe_warm_up(config, seen.run.inputs, items, folder, probe_seconds * OF_WARM_UP)
    else:
        load = Load()
        pace, saving, made = probe_untrained(config, seen.run.inputs, folder)
    wanted, n_bytes = config.represent.checkpoints, files.size(made.folder) * n_epochs
    stage = Stage(
        "warm up",
        "checkpoints",
        round(load.n_rows),
        round(load.n_tokens),
        flops=formulas.training(seen.shape, load, recomputed=warmup.activation_checkpointing),
        seconds=pace.seconds(load.n_padded) + saving * n_epochs,
        disk_bytes=n_bytes,
        passing_bytes=n_bytes if warmup.epochs else 0,  # Trainer's own, until the last epoch ends
    )
    return [stage], [made] * (n_epochs if wanted is None else len(wanted)), [pace]


def check_room(n_bytes: int) -> None:
    """InputError unless the probe has room for its own files."""
    for place in places([("probe", temporary_folder(), n_bytes)]):
        if place.needed > place.free:
            raise InputError(no_room(place))


def _trained_on(seen: Seen) -> tuple[list[Any], float]:
    """Rows that the warm-up trains on, or some like them, and how many each stands for."""
    pool, warmup = seen.lengths["pool"], seen.config.warmup
    if pool.is_exact:
        return [encoded for _, encoded in seen.run.inputs.warmup_rows(seen.config)], 1.0
    share = float(warmup.share.removesuffix("%")) / 100
    n_rows = min(pool.n_rows, max(int(share * pool.n_rows), warmup.min_examples))
    return pool.usable, n_rows / len(pool.usable)


# ---- features ------------------------------------------------------------------------------------------------------


class Paces:
    """How fast the rows of each kind of recipe are made: probed once for all checkpoints, for pool and target alike."""

    def __init__(self, seen: Seen, seconds: float) -> None:
        self._settings, self._recomputed = seen.config.represent, seen.config.warmup.activation_checkpointing
        self._seconds = seconds / (2 if seen.run.method.representation == "ifd" else 1)
        self.found: dict[str, Pace] = {}

    def of(self, recipe: Recipe, batches: Sequence[Sequence[Any]]) -> Pace:
        """Measured on these batches, where it was not on others before."""
        kind = recipe.to_dicts()[0]["kind"]
        if kind not in self.found:
            self.found[kind] = probe_features(
                recipe, batches, self._settings, self._seconds, recomputed=self._recomputed
            )
        return self.found[kind]


def features(seen: Seen, what: What, recipes: Sequence[Recipe], paces: Paces) -> list[Stage]:
    """The feature rows of the pool, or of the target: one stage a store. Writing their shards is not in the seconds."""
    examples = seen.pool if what == "pool" else seen.target
    settings, counted = seen.config.represent, seen.lengths[what]
    stages = []
    for number, recipe in enumerate(recipes, 1):
        todo = missing(seen.run.workspace, recipe, examples)
        part, made_by = counted.part(todo), recipe.to_dicts()[0]
        name, n_found = f"{what} features {number}/{len(recipes)}", counted.n_rows - len(todo)
        reason = max(part.reasons, key=len, default="")
        n_bytes = store_bytes(made_by, len(todo), settings.shard_rows, part.n_skipped, reason)
        stage = Stage(name, "features", len(todo), found=n_found, disk_bytes=n_bytes)
        if batches := shard_batches(part.usable, settings.shard_rows, settings.batch_tokens):
            load, pace = load_of(batches, part.scale), paces.of(recipe, batches)
            workers = min(seen.n_workers, -(-len(todo) // settings.shard_rows))
            reading = part.seconds_a_row * len(todo) if len(todo) > memory.KEPT_ROWS or workers > 1 else 0.0
            stage = replace(
                stage,
                n_tokens=round(load.n_tokens),
                flops=_flops(seen, recipe, batches, part.scale),
                seconds=pace.once + (pace.a_token * load.n_padded + reading) / workers,
            )
        stages.append(stage)
    return stages


def _flops(seen: Seen, recipe: Recipe, batches: Sequence[Sequence[Any]], scale: float) -> float:
    kind, settings, load = recipe.to_dicts()[0]["kind"], seen.config.represent, load_of(batches, scale)
    if kind == "embed":
        from tamis.representations.sentence import SentenceRecipe, load_encoder

        assert isinstance(recipe, SentenceRecipe)
        model, _ = load_encoder(recipe.encoder, recipe.device, recipe.trust_remote_code)
        return formulas.encoding(model, load)
    if seen.shape is None:
        return 0.0
    if kind == "gradient":
        recomputed = seen.config.warmup.activation_checkpointing
        projected = formulas.projecting(seen.shape, load.n_rows, settings.projection, settings.dim)
        return formulas.training(seen.shape, load, recomputed=recomputed) + projected
    if kind == "loss_alone":
        load = load_of([[alone(item) for item in batch] for batch in batches], scale)
    return formulas.forward(seen.shape, load, with_head=kind != "rds")
