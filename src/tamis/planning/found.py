"""What the workspace already holds of a run; nothing is written to it."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from tamis.data.pool import Pool
from tamis.ids import first_places
from tamis.model.checkpoint import Checkpoint, finished_checkpoints
from tamis.pipeline import Pipeline
from tamis.representations.compute import Recipe
from tamis.scoring import Similarity
from tamis.store import FeatureStore
from tamis.store.recipe import NAME, folder_name
from tamis.warming import trained_folder, untrained_folder


def found_checkpoints(run: Pipeline, scratch: Path) -> list[Checkpoint] | None:
    """The finished warm-up's checkpoints that the run will use; None where it is yet to be trained.

    Checkpoints of others, which a run takes over into its workspace, are taken over into `scratch`.
    """
    config = run.config
    if config.warmup.checkpoints is not None:
        elsewhere = config.model_copy(update={"workspace": str(scratch / "taken over")})
        return Pipeline(elsewhere, inputs=run.inputs).checkpoints
    if not (run.workspace / "checkpoints").is_dir():
        return None
    if config.warmup.epochs == 0:
        is_done = bool(finished_checkpoints(untrained_folder(config, run.inputs, run.workspace)))
    else:
        folder = trained_folder(config, run.inputs, run.workspace, run.inputs.warmup_rows(config))
        is_done = len(finished_checkpoints(folder)) == config.warmup.epochs
    return run.checkpoints if is_done else None


def missing(workspace: Any, recipe: Recipe, examples: Pool) -> Int64[np.ndarray, " todo"]:
    """Positions of the examples, each id once, that no shard of the recipe's store holds."""
    made_by = recipe.to_dicts()[0]
    folder = workspace / "features" / folder_name(made_by)
    if not (folder / NAME).exists():
        return first_places(examples.packed_ids)
    return FeatureStore.load(folder).missing(examples.packed_ids)


class _AskedError(Exception):
    """Carries the place of the similarity that was asked for."""


class _Asking(Pipeline):
    """A run that is asked where it keeps its similarity, and does not make it."""

    def _scored(self, name: str, *_: Any) -> Similarity:
        raise _AskedError(self.workspace / "similarity" / f"{name}.npy")


def is_scored(run: Pipeline) -> bool:
    """Whether the similarity is there. To be asked only where every feature row it is made of is."""
    if not (run.workspace / "similarity").is_dir():
        return False
    asking = _Asking(run.config, engine=run.engine, inputs=run.inputs)
    asking.candidates = run.candidates
    try:
        asking.score()
    except _AskedError as asked:
        return bool(asked.args[0].exists())
    raise AssertionError("a similarity was made")
