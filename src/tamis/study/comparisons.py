"""Whether a method differs from random picks of the same budget.

Where every cell has losses (or scores) of single test examples, differences are tested over examples and seeds, else
over seeds alone; `how` says which. With one seed on a side nothing is said to be better or worse.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tamis.errors import InputError
from tamis.statistics import Difference, holm, paired_difference, resampled_means, welch
from tamis.study.budgets import OF_ANY_SIZE, PLACE, QUERY_LOSS, SCORE, budgets, floats, measures, methods, of_kind
from tamis.study.tables import BUDGET, RANDOM

BETTER, WORSE, NOT_SHOWN, NOT_TESTED = "better than random", "worse than random", "no difference shown", "not tested"
LEVEL = 0.05
BY_EXAMPLES = "paired bootstrap over test examples, and the variance over seeds"
BY_SEEDS = "Welch's t-test over seeds"


@dataclass(frozen=True, slots=True)
class _Drawn:
    """By method and budget: `resampled_means` [means, seed], all by the same draws."""

    means: dict[tuple[str, str], np.ndarray]
    n_examples: int


def differences(rows: pd.DataFrame, examples: pd.DataFrame) -> pd.DataFrame:
    """Each method minus random at the same budget, by measure, with p-values after Holm over all of one measure."""
    rows = of_kind(rows, BUDGET)
    made: list[dict[str, Any]] = []
    for measure in measures(rows):
        drawn: dict[Any, _Drawn | None] = {}
        lines = []
        for place, budget, method, ours, randoms in _pairs(rows):
            if place not in drawn:
                drawn = {place: _draws(examples, place, measure)}
            n_ours, n_randoms = (int(side[measure].notna().sum()) for side in (ours, randoms))
            one = _from_draws(drawn[place], method, budget, n_ours, n_randoms)
            how = BY_EXAMPLES if one else BY_SEEDS
            one = one or welch(floats(ours[measure]), floats(randoms[measure]))
            lines.append(
                dict(zip(PLACE, place, strict=True))
                | {"budget": budget, "method": method, "measure": measure, "difference": one.difference}
                | {"low": one.low, "high": one.high, "p": one.p, "n": one.n, "how": how, "note": one.note}
            )
        for line, p in zip(lines, holm([line["p"] for line in lines]), strict=True):
            made.append(line | {"p_holm": float(p), "verdict": verdict(measure, line["difference"], float(p))})
    columns = [*PLACE, "budget", "method", "measure", "difference", "low", "high", "p", "p_holm", "verdict"]
    return pd.DataFrame(made, columns=[*columns, "n", "how", "note"])


def verdict(measure: str, difference: float, p: float) -> str:
    """What a difference to random says in words; `p` after correction."""
    if np.isnan(p):
        return NOT_TESTED
    if p >= LEVEL:
        return NOT_SHOWN
    return BETTER if (difference > 0) == (measure == SCORE) else WORSE


def _pairs(rows: pd.DataFrame) -> Iterator[tuple[Any, str, str, pd.DataFrame, pd.DataFrame]]:
    order = methods(rows)
    for place, group in rows.groupby(PLACE, sort=False):
        for budget in budgets(group):
            here = group[group["budget"] == budget]
            randoms = here[here["method"] == RANDOM]
            for method in order if len(randoms) else ():
                ours = here[here["method"] == method]
                if method not in (RANDOM, *OF_ANY_SIZE) and len(ours):
                    yield place, budget, method, ours, randoms


def _draws(examples: pd.DataFrame, place: Any, measure: str) -> _Drawn | None:
    """None where no test example has a value in every cell."""
    if measure == QUERY_LOSS or not len(examples):
        return None
    here = examples
    for name, value in zip(PLACE, place, strict=True):
        here = here[here[name] == value]
    index, values = ["method", "budget", "seed"], "score" if measure == SCORE else "loss"
    here = here[here[values].notna()]
    if here.duplicated([*index, "id"]).any():
        where = ", ".join(filter(None, place))
        raise InputError(f"examples.parquet: expected each test example once a cell, found one again ({where})")
    table = here.pivot(index=index, columns="id", values=values).dropna(axis=1)  # examples that every cell has
    if not table.size:
        return None
    array = table.to_numpy(np.float64)
    drawn = resampled_means(array)
    cells: dict[tuple[str, str], list[int]] = {}
    for number, (method, budget, _) in enumerate(table.index):
        cells.setdefault((method, budget), []).append(number)
    return _Drawn({cell: drawn[:, numbers] for cell, numbers in cells.items()}, array.shape[1])


def _from_draws(drawn: _Drawn | None, method: str, budget: str, n_ours: int, n_randoms: int) -> Difference | None:
    """None where a cell of either side, of which there are so many, has no values of single examples."""
    sides = [drawn.means.get((name, budget)) for name in (method, RANDOM)] if drawn else [None, None]
    ours, randoms = sides
    if drawn is None or ours is None or randoms is None or (ours.shape[1], randoms.shape[1]) != (n_ours, n_randoms):
        return None
    return paired_difference(ours, randoms, drawn.n_examples)
