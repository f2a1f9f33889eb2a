"""Quantile studies: does loss after fine-tuning grow with the distance of the bin that was trained on?

A series is one representation (or method, where tables name no representation) on one target and model. Correlations
are over its bins, each the mean over seeds: seeds of a bin are no further bins.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd

from tamis.statistics import holm, mean_interval, spearman
from tamis.study.budgets import (
    DISTANCES,
    IN_ONE_SPACE,
    MEASURES,
    PLACE,
    QUERY_LOSS,
    SCORE,
    TEST_LOSS,
    floats,
    methods,
    of_kind,
)
from tamis.study.tables import QUANTILE

BIN = "bin"
ASKED = (QUERY_LOSS, TEST_LOSS, SCORE)  # loss on the query set first: distance is measured to it
SERIES = [*PLACE, "series"]


def bins(rows: pd.DataFrame) -> pd.DataFrame:
    """Each bin of each series: mean and 95% interval over seeds of every measure, and its distances."""
    rows = of_kind(rows, QUANTILE)
    rows = rows[rows[BIN].notna()]
    rows = rows.assign(series=_series(rows))
    made = []
    for key, group in rows.groupby([*SERIES, BIN], sort=False):
        line = dict(zip([*SERIES, BIN], key, strict=True)) | {"n_seeds": len(group)}
        line |= {name: mean_interval(floats(group[name])).mean for name in ("n_examples", *DISTANCES)}
        for name in MEASURES:
            interval = mean_interval(floats(group[name]))
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        made.append(line)
    columns = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    found = pd.DataFrame(made, columns=[*SERIES, BIN, "n_seeds", "n_examples", *DISTANCES, *columns])
    return found.astype({BIN: "int64"}).sort_values([*SERIES, BIN], ignore_index=True)


def _series(rows: pd.DataFrame) -> list[str]:
    """The representation, with the method where one representation has several."""
    n_methods = rows.groupby("representation")["method"].nunique()
    return [
        method if not space else space if n_methods[space] == 1 else f"{space} ({method})"
        for space, method in zip(rows["representation"], rows["method"], strict=True)
    ]


def correlations(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ in every series of `bins`, of bin number and of each distance with each measure.

    p_holm: corrected over all series, for one pair of columns.
    """
    made: list[dict[str, Any]] = []
    for x, y in itertools.product((BIN, *DISTANCES), ASKED):
        lines = []
        for key, group in found.groupby(SERIES, sort=False):
            if group[x].notna().any() and group[y].notna().any():
                lines.append(dict(zip(SERIES, key, strict=True)) | {"x": x, "y": y} | _correlation(group[x], group[y]))
        corrected = holm([line["p"] for line in lines])
        made += [line | {"p_holm": float(p)} for line, p in zip(lines, corrected, strict=True)]
    return pd.DataFrame(made, columns=[*SERIES, "x", "y", "rho", "low", "high", "p", "p_holm", "n", "note"])


def _correlation(x: "pd.Series[Any]", y: "pd.Series[Any]") -> dict[str, Any]:
    found = spearman(floats(x), floats(y))
    return dataclasses.asdict(found)


def selector_correlations(means: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ over the methods of one budget, of the distance their picks reach with each measure.

    `means`: of `budgets.means`. Says whether selectors do well by how near they come, whatever they were made for.
    """
    made = []
    for key, group in means.groupby([*PLACE, "budget"], sort=False):
        for x, y in itertools.product(IN_ONE_SPACE, MEASURES):
            known = group[group[x].notna() & group[y].notna()]
            if len(known) >= 2:
                found = _correlation(known[x], known[y])
                made.append(dict(zip([*PLACE, "budget"], key, strict=True)) | {"x": x, "y": y} | found)
    return pd.DataFrame(made, columns=[*PLACE, "budget", "x", "y", "rho", "low", "high", "p", "n", "note"])


def growing(correlated: pd.DataFrame, y: str) -> tuple[int, int, int]:
    """Of ρ(bin, y): series whose interval is above 0, or whose ρ is 1; those the same below 0; all with a ρ."""
    own = correlated[(correlated["x"] == BIN) & (correlated["y"] == y) & correlated["rho"].notna()]
    low, high = (own[name].where(own[name].notna(), own["rho"]).to_numpy(np.float64) for name in ("low", "high"))
    return int((low > 0).sum()), int((high < 0).sum()), len(own)


def names(found: pd.DataFrame) -> list[str]:
    """The series, in the order of every table and figure."""
    return methods(found.assign(method=found["series"]))
