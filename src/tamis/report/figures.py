"""Figures as SVG, PNG and PDF: numbers in, a matplotlib `Figure` out, drawn without a display.

Colours keep apart in print and for colour-blind readers. Names from data are shown as they are, never as formulas, and
text stays text in SVG. matplotlib is imported when the first figure is drawn.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from tamis.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2a6f97", "#d17a22", "#555555"
_N_NAME = 26  # characters of a name in a figure
_PNG_DPI = 150
_METADATA = ("Date", "Creator", "Format", "Type")  # left out: equal figures are equal files
_OFTEN = 0.2  # runners-up of fewer draws are not in the histogram: the many that came up once would flatten the rest


# ---- agreement -----------------------------------------------------------------------------------------------------


def agreement_figure(
    names: Sequence[str],
    jaccard: Float[np.ndarray, "selection selection"],
    pool_rho: Float[np.ndarray, "selection selection"],
) -> "Figure":
    """Heat maps of the picks' Jaccard similarity and, where any is known, of ρ over the pool; NaN stays blank."""
    from matplotlib.figure import Figure

    panels = [(jaccard, "shared picks (Jaccard)", "Blues", 0.0)]
    off_diagonal = ~np.eye(len(names), dtype=bool)
    if np.isfinite(pool_rho[off_diagonal]).any():
        panels.append((pool_rho, "pool scores (Spearman's ρ)", "RdBu", -1.0))
    side = max(2.4, 0.52 * len(names))
    label = 0.085 * max(len(short(name)) for name in names)
    shape = (1, len(panels)) if len(names) <= 8 else (len(panels), 1)
    size = ((side + 0.5) * shape[1] + label, (side + label + 0.6) * shape[0])
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(*shape, squeeze=False).ravel()
    for number, (axis, (values, title, colours, lowest)) in enumerate(zip(axes, panels, strict=True)):
        _heat_map(axis, names, values, colours, lowest, show_names=number == 0 or shape[1] == 1)
        axis.set_title(title, fontsize=11, pad=10, loc="left")
    return figure


def _heat_map(
    axis: "Axes", names: Sequence[str], values: np.ndarray, colours: str, lowest: float, *, show_names: bool
) -> None:
    shown = np.where(np.eye(len(names), dtype=bool), np.nan, values)  # of one with itself there is nothing to tell
    image = axis.imshow(np.ma.masked_invalid(shown), cmap=colours, vmin=lowest, vmax=1)
    axis.set_facecolor("#eeeeee")
    colour_of = image.to_rgba(shown)
    for row, column in np.argwhere(~np.eye(len(names), dtype=bool)):
        value = float(shown[row, column])
        red, green, blue, _ = colour_of[row, column] if np.isfinite(value) else (1, 1, 1, 1)
        ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
        axis.text(column, row, _cell(value), ha="center", va="center", color=ink, fontsize=9)
    places, labels = range(len(names)), [short(name) for name in names]
    axis.set_xticks(places, labels, rotation=90 if len(names) > 3 else 0, fontsize=9, parse_math=False)
    if len(names) <= 3:
        for tick in axis.get_xticklabels():
            tick.set(rotation=20, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, labels if show_names else [""] * len(names), fontsize=9, parse_math=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    edges = np.arange(len(names) + 1) - 0.5
    axis.set_xticks(edges, minor=True)
    axis.set_yticks(edges, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)


def _cell(value: float) -> str:
    """0.37 as .37, because the cells are small; what is not known as a dash."""
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}"
    return "0" if text.strip("-") == "0.00" else text.replace("0.", ".").replace("-", "−")


# ---- inclusion -----------------------------------------------------------------------------------------------------


def inclusion_figure(
    picked: Float[np.ndarray, " pick"], others: Float[np.ndarray, " other"], thresholds: tuple[float, float]
) -> "Figure":
    """How often each pick, and each row outside that was ever picked, came up: sorted, and as a histogram.

    `thresholds`: below the first a pick is doubtful, from the second on it is firm.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    doubtful, firm = thresholds
    runners_up = np.sort(others[others > 0])[::-1]
    n_shown = min(len(runners_up), max(2 * len(picked), 50))
    left.plot(*_steps(np.sort(picked)[::-1]), color=BLUE, linewidth=2.2, label=f"picks ({len(picked):,})")
    if n_shown:
        x, y = _steps(runners_up[:n_shown])
        left.plot(x + len(picked), y, color=ORANGE, linewidth=2.2, linestyle=(0, (4, 1.5)), label="runners-up")
    left.axvline(len(picked), color=GREY, linewidth=0.8)
    for height, text in ((firm, "firm from here up"), (doubtful, "doubtful below")):
        left.axhline(height, color=GREY, linewidth=0.8, linestyle=":")
        left.annotate(
            text, (1, height), (-3, 3 if height == firm else -3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom" if height == firm else "top", fontsize=8, color=GREY,
        )  # fmt: skip
    left.set(xlim=(0, len(picked) + max(n_shown, 1)), xlabel="rows, by how often they came up")
    left.set(ylim=(0, 1.03), ylabel="share of draws")
    left.legend(loc="lower left", fontsize=9, frameon=False)
    bins = np.linspace(0, 1, 21)
    often = runners_up[runners_up >= _OFTEN]
    labels = ["picks", f"runners-up, from {_OFTEN:.0%} on"]
    right.hist([picked, often], bins=list(bins), color=[BLUE, ORANGE], label=labels, rwidth=0.95)
    for patch in right.containers[1]:
        patch.set(hatch="////", edgecolor="white", linewidth=0)
    right.set(xlim=(0, 1), xlabel="share of draws", ylabel="rows")
    right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for numbers in (left.xaxis, right.yaxis):
        numbers.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.legend(loc="best", fontsize=9, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each value as a level one wide, so that a single one shows too."""
    edges = np.arange(len(values) + 1)
    return np.repeat(edges, 2)[1:-1], np.repeat(values, 2)


# ---- as files ------------------------------------------------------------------------------------------------------


def as_svg(figure: "Figure") -> Markup:
    """The figure as one <svg> element; equal figures give equal text."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tamis"}), _of_any_script():
        figure.savefig(out, format="svg", bbox_inches="tight", metadata=dict.fromkeys(_METADATA))
    text = out.getvalue()
    return Markup(text[text.index("<svg") :])  # matplotlib escapes the text in it


def save_figure(figure: "Figure", folder: Path, stem: str) -> Markup:
    """Write <stem>.svg, .png and .pdf; the SVG, to stand in a page. Equal figures are equal files."""
    import matplotlib

    svg = as_svg(figure)
    figure.set_layout_engine("none")  # laid out once is enough, and then alike in every format
    (folder / f"{stem}.svg").write_text('<?xml version="1.0" encoding="utf-8"?>\n' + str(svg), encoding="utf-8")
    with _of_any_script():
        figure.savefig(folder / f"{stem}.png", bbox_inches="tight", dpi=_PNG_DPI)
        with matplotlib.rc_context({"pdf.fonttype": 42}):  # text that can be searched and edited
            figure.savefig(folder / f"{stem}.pdf", bbox_inches="tight", metadata={"CreationDate": None})
    return svg


@contextmanager
def _of_any_script() -> Iterator[None]:
    """Names in scripts that matplotlib's own font lacks are boxes in PNG and right in SVG: no reason for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def short(name: str) -> str:
    """A name from data as figures show it: cut in the middle, its control characters written out."""
    name = printable(name)
    return name if len(name) <= _N_NAME else f"{name[: _N_NAME // 3]}…{name[_N_NAME // 3 + 1 - _N_NAME :]}"
