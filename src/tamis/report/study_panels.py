"""What the figures of a study share: one style for a method wherever it is drawn, small panels, one legend.

Colours are those of Okabe and Ito, which colour-blind readers keep apart; markers and lines do so in grey print.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tamis.errors import printable
from tamis.report.figures import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4FA3", "#8C6D31")
_MARKERS, _LINES = "osD^vP*XhHd<>", ("-", (0, (5, 1.5)), (0, (2, 1)))
_GREYS = ("#222222", "#777777", "#999999", "#444444", "#666666")
PANEL = (3.3, 2.5)  # inches
N_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Style:
    """How a method, a representation or a source is drawn."""

    colour: str
    marker: str
    line: Any

    def of_line(self) -> dict[str, Any]:
        """For `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markersize": 5, "linewidth": 1.4}


def styles(names: Sequence[str], baselines: Sequence[str] = ()) -> dict[str, Style]:
    """A style for every name, by its place; baselines are grey."""
    own = [name for name in names if name not in baselines]
    made = {}
    for place, name in enumerate(own):
        line = _LINES[place // len(COLOURS) % len(_LINES)]
        made[name] = Style(COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)], line)
    for place, name in enumerate(baselines):
        made[name] = Style(_GREYS[place % len(_GREYS)], "x+1.|"[place % 5], _LINES[-1])
    return made


def panels(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and rows of each target, or of each target and model where there are several models."""
    several = table["model"].nunique() > 1
    for (target, model), group in table.groupby(["target", "model"], sort=False):
        yield printable(f"{target}, {model}" if several else str(target)), group


def grid(
    n: int, size: tuple[float, float] = PANEL, n_columns: int = N_COLUMNS, sharey: Any = False
) -> tuple["Figure", list["Axes"]]:
    """A figure of `n` panels of this size in inches, and their axes, row by row."""
    from matplotlib.figure import Figure

    columns = max(1, min(n, n_columns))
    rows = max(1, -(-n // columns))
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel())
    for axis in axes[n:]:
        axis.remove()
    for axis in axes[:n]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:n]


def plain_ticks(axis: "Axes", values: "pd.Series[Any]") -> None:
    """At most five ticks, at values that are there, of an axis of counts."""
    from matplotlib.ticker import FixedLocator, NullLocator

    known = np.unique(values[values > 0].to_numpy(np.float64))
    while len(known) > 5:
        known = known[::2]
    axis.xaxis.set_major_locator(FixedLocator(list(known)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(known), [_count(value) for value in known], fontsize=8)


def _count(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:,.0f}"


def outer_labels(axes: Sequence["Axes"], x: str, y: str, n_columns: int = N_COLUMNS) -> None:
    """y at the left of every row, x below every column; scores as percents."""
    from matplotlib.ticker import PercentFormatter

    columns = max(1, min(len(axes), n_columns))
    for number, axis in enumerate(axes):
        if number % columns == 0:
            axis.set_ylabel(y, fontsize=9)
        if number + columns >= len(axes):
            axis.set_xlabel(x, fontsize=9)
        if y.startswith("score"):
            axis.yaxis.set_major_formatter(PercentFormatter(1))


def legend(figure: "Figure", axes: Sequence["Axes"], order: Sequence[str] = ()) -> None:
    """One legend below, of every label in any panel."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = {name: found[name] for name in (*(name for name in order if name in found), *found)}
    if found:
        below = figure.legend(
            list(found.values()), [short(name) for name in found], loc="outside lower center",
            ncols=min(len(found), 5), fontsize=9, frameon=False,
        )  # fmt: skip
        for text in below.get_texts():
            text.set_parse_math(False)
