"""What methods cost, beside what they gained; and what they picked, by source."""

from typing import Any

import numpy as np
import pandas as pd

from tamis.study.budgets import MEASURES, SCORE
from tamis.study.tables import ZERO_SHOT

SELECTING = ("warm up", "represent", "score", "pick")
_UNITS = ("seconds", "flops", "bytes")


def cost_benefit(costs: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """By target, model and method: what selecting and fine-tuning took, and the mean gain over random at its budgets.

    Gains are positive where the method is better, for losses too. Costs without a target serve all targets, and count
    for each. What a stage did not measure makes a sum NaN, not smaller; `unmeasured` names those stages.
    """
    made: list[dict[str, Any]] = []
    own = costs[costs["target"] != ""]
    shared = costs[costs["target"] == ""]
    targets = list(dict.fromkeys([*own["target"], *(differences["target"] if len(shared) else [])]))
    for target in targets or [""]:
        here = pd.concat([own[own["target"] == target], shared], ignore_index=True)
        for (model, method), group in here.groupby(["model", "method"], sort=False):
            selecting = group[group["stage"].isin(SELECTING)]
            line = {"target": target, "model": model, "method": method}
            line |= {f"selecting_{unit}": _sum(selecting[unit]) for unit in _UNITS}
            tuned = group[
                (group["stage"] == "fine-tune") & (group["method"] != ZERO_SHOT)
            ]  # which only loads its model
            line["fine_tuning_seconds"] = _sum(tuned["seconds"])
            line["unmeasured"] = ", ".join(dict.fromkeys(group.loc[group["seconds"].isna(), "stage"]))
            for measure in MEASURES:
                same = differences[
                    (differences["target"] == target)
                    & (differences["model"] == model)
                    & (differences["method"] == method)
                    & (differences["measure"] == measure)
                ]
                sign = 1 if measure == SCORE else -1
                line[f"gain_{measure}"] = sign * float(same["difference"].mean()) if len(same) else np.nan
            made.append(line)
    columns = ["target", "model", "method", *(f"selecting_{unit}" for unit in _UNITS), "fine_tuning_seconds"]
    return pd.DataFrame(made, columns=[*columns, "unmeasured", *(f"gain_{measure}" for measure in MEASURES)])


def _sum(values: "pd.Series[Any]") -> float:
    """NaN where one is not known, or there is none."""
    return float(values.sum(skipna=False)) if len(values) else np.nan


def composition(rows: pd.DataFrame) -> pd.DataFrame:
    """By target, model, budget, method and source: mean picks over seeds, their share, the pool's, and the ratio."""
    keys = ["target", "model", "budget", "method"]
    if not len(rows):
        return pd.DataFrame(columns=[*keys, "source", "n_picked", "n_pool", "share", "pool_share", "ratio"])
    n_seeds = rows.groupby(keys, sort=False)["seed"].nunique(dropna=False).rename("n_seeds").reset_index()
    # A source that one seed did not pick may have no row of it: the sum over all seeds counts it as none
    found = rows.groupby([*keys, "source"], sort=False).agg(n_picked=("n_picked", "sum"), n_pool=("n_pool", "max"))
    found = found.reset_index().merge(n_seeds, on=keys)
    found["n_picked"] /= found.pop("n_seeds")
    of = found.groupby(keys, sort=False)
    found["share"] = found["n_picked"] / of["n_picked"].transform("sum")
    found["pool_share"] = found["n_pool"] / of["n_pool"].transform("sum")
    found["ratio"] = found["share"] / found["pool_share"]
    return found
