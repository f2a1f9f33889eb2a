"""Budget studies: what each method reached at each budget, its rank, and the same at equal supervised tokens.

Every function takes rows of `tables.RESULT_COLUMNS` and gives a plain table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tamis.statistics import average_rank, mean_interval, welch
from tamis.study.tables import BASELINES, BUDGET, FULL_POOL, RANDOM, ZERO_SHOT, kind

TEST_LOSS, QUERY_LOSS, SCORE = "test_loss", "target_loss", "score"
MEASURES = {TEST_LOSS: "test loss", QUERY_LOSS: "query loss", SCORE: "score"}
IN_ONE_SPACE = ("mean_nearest", "wasserstein")  # the same for all methods; an objective is each method's own
DISTANCES = {"mean_nearest": "mean nearest", "wasserstein": "Wasserstein", "objective": "objective"}
ALL = "all"
PLACE = ["experiment", "target", "model"]
CELL = [*PLACE, "method", "budget"]
OF_ANY_SIZE = (ZERO_SHOT, FULL_POOL)


def of_kind(rows: pd.DataFrame, wanted: str) -> pd.DataFrame:
    """The rows of budget, or of quantile, experiments."""
    return rows[np.array([kind(name) == wanted for name in rows["experiment"]], dtype=bool)]


def measures(rows: pd.DataFrame) -> list[str]:
    """What was measured at all: test loss, query loss, score, in that order."""
    return [name for name in MEASURES if rows[name].notna().any()]


def floats(column: "pd.Series[Any]") -> np.ndarray:
    """A column as float64, NaN where not known."""
    return column.to_numpy(np.float64, na_value=np.nan)


def methods(rows: pd.DataFrame) -> list[str]:
    """Methods by name, then the baselines; the order of every table and figure."""
    found = set(rows["method"])
    return [*sorted(found - set(BASELINES)), *(name for name in BASELINES[1:] + BASELINES[:1] if name in found)]


def budgets(rows: pd.DataFrame) -> list[str]:
    """Budgets from small to large: by examples trained on where known, else by their number."""
    sized = rows[~rows["method"].isin(OF_ANY_SIZE)]

    def size(budget: str) -> tuple[float, float, str]:
        known = floats(sized.loc[sized["budget"] == budget, "n_examples"])
        number = "".join(c for c in budget if c.isdigit() or c == ".")
        mean = float(np.nanmean(known)) if np.isfinite(known).any() else np.inf
        return mean, float(number) if number.replace(".", "", 1).isdigit() else np.inf, budget

    return sorted(set(sized["budget"]), key=size)


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Each method at each budget: mean and 95% interval over seeds of every measure, and its size."""
    made = []
    for key, group in of_kind(rows, BUDGET).groupby(CELL, sort=False):
        line = dict(zip(CELL, key, strict=True)) | {"n_seeds": len(group)}
        for name in ("n_examples", "n_tokens", *DISTANCES):
            line[name] = mean_interval(floats(group[name])).mean
        for name in MEASURES:
            interval = mean_interval(floats(group[name]))
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        made.append(line)
    columns = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    return pd.DataFrame(made, columns=[*CELL, "n_seeds", "n_examples", "n_tokens", *DISTANCES, *columns])


# ---- over targets --------------------------------------------------------------------------------------------------


def ranks(rows: pd.DataFrame, of: Sequence[str]) -> pd.DataFrame:
    """Mean rank of each method over targets and models, by measure and budget; 1 is best (lowest; for score highest).

    Where cells are missing, those methods or those targets are left out of a budget that keep more of it. Over all
    budgets it is the mean of the ranks at each; that is not tested, as budgets of one target are not independent.
    """
    rows = of_kind(rows, BUDGET)
    rows = rows[~rows["method"].isin(OF_ANY_SIZE)]
    made: list[dict[str, Any]] = []
    for experiment, group in rows.groupby("experiment", sort=False):
        for measure in of:
            known = group[group[measure].notna()]
            found = [line for budget in budgets(known) for line in _ranks_at(known, budget, measure)]
            for method in methods(known):
                own = [line for line in found if line["method"] == method]
                if len({line["budget"] for line in found}) > 1 and own:
                    mean = sum(line["mean_rank"] for line in own) / len(own)
                    note = f"mean over {len(own)} budgets; not tested"
                    found.append({"budget": ALL, "method": method, "measure": measure, "mean_rank": mean, "note": note})
            made += [{"experiment": experiment} | line for line in found]
    columns = ["experiment", "measure", "budget", "method", "mean_rank", "n_blocks", "p", "critical_difference", "note"]
    return pd.DataFrame(made, columns=columns)


def _ranks_at(rows: pd.DataFrame, budget: str, measure: str) -> list[dict[str, Any]]:
    here = rows[rows["budget"] == budget]
    table = here.pivot_table(index=["target", "model"], columns="method", values=measure, aggfunc="mean")
    whole = max(table.dropna(axis=0), table.dropna(axis=1), key=lambda part: part.size)
    if whole.shape[1] < 2 or not whole.size:
        return []
    sign = -1 if measure == SCORE else 1
    found = average_rank(sign * whole.to_numpy(np.float64))
    note = found.note
    if whole.shape != table.shape:
        left = [
            *sorted(set(table.columns) - set(whole.columns)),
            *(row[0] for row in table.index.difference(whole.index)),
        ]
        note = f"left out, with cells missing: {', '.join(left)}; {note}".rstrip("; ")
    common = {"budget": budget, "measure": measure, "n_blocks": found.n, "p": found.p}
    return [
        common
        | {"method": name, "mean_rank": float(rank), "critical_difference": found.critical_difference, "note": note}
        for name, rank in zip(whole.columns, found.mean, strict=True)
    ]


# ---- at equal tokens -----------------------------------------------------------------------------------------------


def equal_tokens(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Each method's measure at the supervised tokens that random had, read off its curve over budgets.

    A seed's curve is linear in log tokens between its budgets, and unknown beyond them: points lie where all seeds of
    random have one, and a single budget has none. Columns: mean over seeds with interval, and the difference to random
    there (Welch; one comparison at a time).
    """
    rows = of_kind(rows, BUDGET)
    rows = rows[rows[measure].notna() & (rows["n_tokens"] > 0).fillna(False) & ~rows["method"].isin(OF_ANY_SIZE)]
    made = []
    for place, group in rows.groupby(PLACE, sort=False):
        randoms = group[group["method"] == RANDOM]
        points = _points(randoms)
        curves = {method: _curves(group[group["method"] == method], measure, points) for method in methods(group)}
        for number, n_tokens in enumerate(points):
            for method, at in curves.items():
                own, base = mean_interval(at[:, number]), welch(at[:, number], curves[RANDOM][:, number])
                if own.n:
                    made.append(
                        dict(zip(PLACE, place, strict=True))
                        | {"n_tokens": n_tokens, "method": method, "measure": measure, "value": own.mean}
                        | {"low": own.low, "high": own.high, "n_seeds": own.n, "difference": base.difference}
                        | {"difference_low": base.low, "difference_high": base.high, "p": base.p}
                    )
    columns = [*PLACE, "n_tokens", "method", "measure", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(made, columns=[*columns, "difference", "difference_low", "difference_high", "p"])


def _points(randoms: pd.DataFrame) -> np.ndarray:
    """Mean tokens of each of random's budgets, moved into the range that all of its seeds cover."""
    means = [float(floats(at["n_tokens"]).mean()) for _, at in randoms.groupby("budget")]
    tokens = randoms.groupby("seed", dropna=False)["n_tokens"]
    if len(means) < 2 or (low := float(tokens.min().max())) > (high := float(tokens.max().min())):
        return np.empty(0)
    return np.unique(np.clip(means, low, high))


def _curves(rows: pd.DataFrame, measure: str, points: np.ndarray) -> np.ndarray:
    """[seed, point]: NaN beyond a seed's budgets, with room for rounding."""
    found = []
    for _, own in rows.groupby("seed", dropna=False):
        curve = own.groupby("n_tokens")[measure].mean().sort_index()
        x, y = np.log(curve.index.to_numpy(np.float64)), curve.to_numpy(np.float64)
        at = np.interp(np.log(points), x, y)
        inside = (points >= np.exp(x[0]) * (1 - 1e-9)) & (points <= np.exp(x[-1]) * (1 + 1e-9))
        found.append(np.where(inside, at, np.nan))
    return np.array(found)
