"""Numbers as a page shows them, and a table of them: lines of names, columns of cells."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tamis.study.budgets import DISTANCES, MEASURES, SCORE, methods
from tamis.study.tables import QUANTILE

NAMES = ("experiment", "target", "model")


@dataclass(frozen=True, slots=True)
class Cell:
    """Text, a small line below it, and a class: better, worse, or none."""

    text: str
    small: str = ""
    css: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A table on the page; `csv`: the name of the whole table it is from; the first `n_names` columns are names."""

    title: str
    explained: str
    csv: str
    n_names: int
    header: list[str]
    rows: list[list[Cell]]


def number(value: float, digits: int = 3) -> str:
    """With a real minus; a dash where not known."""
    return "–" if np.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def value(measure: str, of: float, *, sign: bool = False) -> str:
    """A loss or distance with three digits, a score in percent."""
    text = number(100 * of, 1) + "%" * (of == of) if measure == SCORE else number(of)
    return f"+{text}" if sign and of > 0 else text


def interval(measure: str, low: float, high: float) -> str:
    """[low, high], or nothing where there is none."""
    return "" if np.isnan(low) else f"[{value(measure, low)}, {value(measure, high)}]"


def rho_interval(row: Any) -> str:
    """[low, high] of a correlation, or why there is none."""
    return f"[{number(row.low, 2)}, {number(row.high, 2)}]" if row.low == row.low else str(row.note)


def each(table: pd.DataFrame) -> Iterator[Any]:
    """Rows with their columns as attributes."""
    yield from table.itertuples()


def label(measure: str) -> str:
    """A measure's name and unit."""
    return {**MEASURES, **DISTANCES}[measure]


def matrix(
    title: str,
    explained: str,
    csv: str,
    own: pd.DataFrame,
    column: str,
    columns: Sequence[Any],
    cell: Callable[[Any], Cell],
    lines: Sequence[str] = (*NAMES, "method"),
) -> Shown:
    """One line for each value of `lines` (those that never differ are left out), one column for each of `columns`."""
    kept = [name for name in lines if own[name].nunique() > 1] or ["method" if "method" in lines else "target"]
    order = {name: place for place, name in enumerate(methods(own))} if "method" in own else {}
    found: dict[tuple[Any, ...], dict[Any, Cell]] = {}
    for row in each(own):
        found.setdefault(tuple(getattr(row, name) for name in kept), {})[getattr(row, column)] = cell(row)
    seen = {key: place for place, key in enumerate(dict.fromkeys(key[:-1] for key in found))}
    keys = sorted(found, key=lambda key: (seen[key[:-1]], order.get(key[-1], 0)))
    head = [f"{name:,.0f} tokens" if column == "n_tokens" else str(name) or "none" for name in columns]
    rows = []
    for key in keys:
        left = [Cell(str(name).removeprefix(f"{QUANTILE}:")) for name in key]
        rows.append([*left, *(found[key].get(name, Cell("–")) for name in columns)])
    return Shown(title, explained, csv, len(kept), [*kept, *head], rows)
