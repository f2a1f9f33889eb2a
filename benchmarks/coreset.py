"""How well a small selection stands for its pool: `python -m benchmarks.coreset data.pool=FILE model.name=DIR …`.

The relative distance ‖a − μ‖ / ‖μ‖ to the pool's mean feature μ: of tagcos, of one pursuit of μ without clusters, of
other coresets, and of random picks of the same number (mean, lowest and highest of five seeds). a is:

    mean             a = Σ aᵢ / n over the picks
    weighted mean    a = Σ wᵢaᵢ / Σ wᵢ, where the method gives weights
    … best length    a times the best factor: only the direction counts
    NNLS             a = Σ xᵢaᵢ with the best x ≥ 0 of these rows, a true non-negative least-squares solve
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from tamis.config import load_config, parse_override
from tamis.pipeline import Pipeline
from tamis.selectors import Picks, herding, k_center, matching_pursuit, random, tagcos
from tamis.selectors.rows import mean

_SEEDS = range(5)


def main(arguments: Sequence[str]) -> None:
    """Print a table of distances and one of sources; the features must be in the workspace, or are computed."""
    run = Pipeline(load_config(None, dict(parse_override(argument) for argument in arguments)))
    rows, sources = run.pool_rows.combined, run.pool_rows.examples.sources
    goal = mean(rows)
    features = rows[:]
    n = max(1, len(sources) // 20)  # 5%
    picks = {
        "tagcos": tagcos(features, n_examples=n),
        "pursuit without clusters": matching_pursuit(features, goal, n_examples=n),
        "herding": herding(features, n_examples=n),
        "k_center": k_center(features, n_examples=n),
        **{f"random {seed}": random(len(sources), n_examples=n, seed=seed) for seed in _SEEDS},
    }
    console = Console(width=120)
    console.print(_distances(features, goal, picks, n))
    console.print(_sources(sources, picks))


def _distances(features: np.ndarray, goal: np.ndarray, picks: Mapping[str, Picks], n: int) -> Table:
    columns = ("picks", "weighted mean", "… best length", "mean", "… best length", "NNLS")
    table = Table(*columns, title=f"{n:,} picks, distance to the mean")
    chance = []
    for name, picked in picks.items():
        rows = features[picked.indices].astype(np.float64)
        _, residual = nnls(rows.T, goal)
        plain = (*_relative(rows.mean(axis=0), goal), residual / float(np.linalg.norm(goal)))
        if name.startswith("random"):
            chance.append(plain)
            continue
        weights = picked.weights
        weighted = (
            ["", ""] if weights is None else [f"{d:.3f}" for d in _relative(weights @ rows / weights.sum(), goal)]
        )
        table.add_row(name, *weighted, *(f"{distance:.3f}" for distance in plain))
    by_chance = (f"{np.mean(d):.3f} ({min(d):.3f} to {max(d):.3f})" for d in zip(*chance, strict=True))
    table.add_row(f"random, {len(chance)} seeds", "", "", *by_chance)
    return table


def _relative(found: np.ndarray, goal: np.ndarray) -> tuple[float, ...]:
    """The relative distance as it is, and at the best length."""
    scaled = found * (found @ goal) / (found @ found)
    return tuple(float(np.linalg.norm(a - goal) / np.linalg.norm(goal)) for a in (found, scaled))


def _sources(sources: Sequence[str], picks: Mapping[str, Picks]) -> Table:
    shown = {"pool": np.arange(len(sources)), **{name: picked.indices for name, picked in picks.items()}}
    shown = {name: rows for name, rows in shown.items() if not name.startswith("random") or name == "random 0"}
    table = Table("source", *shown, title="composition")
    for source, _ in Counter(sources).most_common():
        shares = (np.mean([sources[i] == source for i in rows.tolist()]) for rows in shown.values())
        table.add_row(source, *(f"{share:.1%}" for share in shares))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
