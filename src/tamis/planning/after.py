"""What comes after the features: score, pick, write, run for real over some of the rows, with made-up features."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tamis.config import Config
from tamis.data.pool import Pool
from tamis.inputs import Inputs
from tamis.methods import SELECTORS
from tamis.pipeline import Pipeline
from tamis.planning.probe import made_up_store
from tamis.representations.compute import Recipe
from tamis.representing import Rows
from tamis.settings import EngineConfig
from tamis.store import files


@dataclass(frozen=True, slots=True)
class After:
    """Seconds over n_pool rows of which n_picks are picked, and bytes of the folder written.

    rank: the selector alone. pick: the rest of that stage, and what the report looks at.
    """

    n_pool: int
    n_picks: int
    score: float
    rank: float
    pick: float
    write: float
    out_bytes: int
    row_seconds: float  # of writing one feature row


def run_after(
    config: Config, inputs: Inputs, rows: Pool, n_picks: int, recipes: Sequence[Sequence[Recipe]], folder: Path
) -> After:
    """Score, pick and write. recipes: those of the target's rows and of the pool's, none where there are no rows.

    Quotas, floors and included rows are left out: some of the rows need not be able to keep to them.
    """
    pick = config.pick.model_copy(update={"budget": str(n_picks), "quotas": {}, "floors": {}, "include": []})
    changes = {"pick": pick, "workspace": str(folder / "ws"), "out": str(folder / "out"), "engine": EngineConfig()}
    run = Pipeline(config.model_copy(update=changes), inputs=inputs)
    run.candidates = rows
    of_target, of_pool = recipes
    row_seconds = 0.0
    if of_target:
        run.target_rows, _ = _rows(of_target, inputs.target, config, folder / "target")
    if of_pool:
        run.pool_rows, row_seconds = _rows(of_pool, rows, config, folder / "pool")
    selector = SELECTORS[run.method.selector]
    is_scored = config.pick.similarity is None and "similarity" in selector.needs
    scored = run.score() if is_scored else None
    rank = 0.0
    if scored is not None or (config.pick.similarity is None and of_pool):
        pool = scored.pool if scored is not None else run.pool_rows.examples
        start = time.perf_counter()
        run.rank(scored, pool, slice(None), n_picks)
        rank = time.perf_counter() - start
    start = time.perf_counter()
    selection = run.pick()
    picking = time.perf_counter() - start
    start = time.perf_counter()
    run.write(selection)
    writing = time.perf_counter() - start
    n_bytes = files.size(folder / "out")
    score = run.seconds.get("score", 0.0)
    return After(len(rows), n_picks, score, rank, max(0.0, picking - rank), writing, n_bytes, row_seconds)


def _rows(recipes: Sequence[Recipe], examples: Pool, config: Config, folder: Path) -> tuple[Rows, float]:
    """Made-up rows of these examples; recipes alike in kind share a store, for what they hold does not matter."""
    stores, spent = {}, 0.0
    dicts = [recipe.to_dicts()[0] for recipe in recipes]
    ids = list(dict.fromkeys(examples.ids))
    for made_by in dicts:
        if made_by["kind"] not in stores:
            rows_a_shard, seed = config.represent.shard_rows, config.seed
            stores[made_by["kind"]], spent = made_up_store(folder / made_by["kind"], made_by, ids, rows_a_shard, seed)
    weights = [1 / len(dicts)] * len(dicts) if dicts[0]["kind"] == "gradient" else [1.0] * len(dicts)
    return Rows([stores[made_by["kind"]] for made_by in dicts], weights, examples, config.represent.normalize), spent


def some_rows(pool: Pool, n_rows: int, seed: int) -> Pool:
    """Random rows of a pool, in its order."""
    if n_rows >= len(pool):
        return pool
    return pool.take(np.sort(np.random.default_rng(seed).choice(len(pool), n_rows, replace=False)))


def line(small: float, large: float, n_small: int, n_large: int, n: int) -> float:
    """What is 'small' of n_small and 'large' of n_large, of n: on the line through both, never falling."""
    if n_large <= n_small:
        return large * (n / n_large if n > n_large else 1.0)
    slope = max(0.0, (large - small) / (n_large - n_small))
    return max(0.0, large + slope * (n - n_large))
