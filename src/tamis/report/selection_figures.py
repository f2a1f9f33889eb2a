"""The figures of a selection's report, made from its facts: small enough for a phone, clear in grey.

matplotlib is imported when the first figure is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.report.figures import BLUE, GREY, ORANGE, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_PANELS = 6
_POOL = "#c9c9c9"
_WIDTH = 5.4  # inches: on a phone the letters are still legible
_SMALL = 8.5
_N_LETTERS = 60  # that fit beside each other above a figure
_RARE = 25  # where bars of picks are this much lower than those of the pool the axis is logarithmic


def selection_figures(facts: Mapping[str, Any]) -> dict[str, "Figure"]:
    """By name: scores, coverage and lengths, as far as there is something to draw."""
    figures = {}
    if "panels" in facts["scores"]:
        figures["scores"] = score_figure(facts["scores"])
    if facts["coverage"].get("rows"):
        figures["coverage"] = coverage_figure(facts["coverage"])
    figures["lengths"] = length_figure(facts["lengths"])
    return figures


def score_figure(scores: Mapping[str, Any]) -> "Figure":
    """For each of the first targets: how many pool rows have which score, the picks it took, and its lowest pick."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    panels = scores["panels"][:N_PANELS]
    figure = Figure(figsize=(_WIDTH, 1.1 + 1.75 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        log = max(panel["pool"]) > _RARE * max(panel["picks"])
        floor = 0.7 if log else 0
        axis.stairs(panel["pool"], panel["edges"], fill=True, color=_POOL, baseline=floor, label="pool")
        axis.stairs(panel["picks"], panel["edges"], fill=True, color=BLUE, baseline=floor, label="picked")
        if log:
            axis.set_yscale("log")
        axis.set_ylim(floor, max(panel["pool"]) * (4 if log else 1.15))
        axis.set_ylabel("rows", fontsize=_SMALL)
        if panel["cut"] is not None:
            cut = panel["cut"]
            axis.axvline(cut, color=ORANGE, linewidth=1.3, linestyle="--")
            left = cut > panel["edges"][len(panel["edges"]) // 2]
            axis.annotate(
                f"{'lowest pick' if scores['no_cut'] else 'cut'} {_number(cut)}", (cut, 1), (-4 if left else 4, -4),
                xycoords=("data", "axes fraction"), textcoords="offset points", ha="right" if left else "left",
                va="top", fontsize=_SMALL, color="#8a4a0c",
            )  # fmt: skip
        if len(scores["panels"]) > 1:
            axis.set_title(short(panel["name"]), fontsize=9.5, loc="left", parse_math=False)
        _tidy(axis)
    axes[-1].set_xlabel("score", fontsize=_SMALL)
    if all(panel["log"] for panel in panels):
        axes[-1].set_xscale("log")
        axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=_SMALL, frameon=False
    )
    return figure


def coverage_figure(coverage: Mapping[str, Any]) -> "Figure":
    """Target rows by how many picks they have: above how many, below how near pool and picks come."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    order = {target["name"]: place for place, target in enumerate(coverage["targets"])}
    rows = sorted(coverage["rows"], key=lambda row: (order[row["target"]], -row["n_picks"], -row["best"]))
    figure = Figure(figsize=(_WIDTH, 4.1), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    edges = np.arange(len(rows) + 1) + 0.5
    places = np.arange(1, len(rows) + 1)
    above.stairs([row["n_picks"] for row in rows], edges, fill=True, color=BLUE)
    above.set_ylabel("picks taken" if coverage["by_turns"] else "picks nearest to it", fontsize=_SMALL)
    above.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    size = 16 if len(rows) <= 100 else 7
    for key, label, colour, marker in (
        ("best", "best pick", BLUE, "o"),
        ("mean", "mean of picks", ORANGE, "^"),
    ):
        below.scatter(places, [row[key] for row in rows], s=size, color=colour, marker=marker, label=label)
    best_pool = [row["best_pool"] for row in rows]
    below.scatter(
        places, best_pool, s=3 * size, facecolors="none", edgecolors=GREY, linewidths=0.8, label="best in pool"
    )
    below.set_ylabel(short(coverage["measure"]), fontsize=_SMALL, parse_math=False)
    below.set_xlabel("target rows, those with most picks first", fontsize=_SMALL)
    below.set_xlim(0.5, len(rows) + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    starts = np.cumsum([0, *(target["n_rows"] for target in coverage["targets"])])
    if 1 < len(coverage["targets"]) <= N_PANELS:
        for number, (start, target) in enumerate(zip(starts, coverage["targets"], strict=False)):
            after = starts[min(number + 2, len(starts) - 1)]  # in two lines by turns, so that narrow ones have room
            name, room = short(target["name"]), max(6, int(_N_LETTERS * (after - start) / len(rows)))
            name = name if len(name) <= room else f"{name[: room - 1]}…"
            above.text(start + 0.5, 1.02 + 0.13 * (number % 2), name, transform=above.get_xaxis_transform(),
                       va="bottom", fontsize=_SMALL, parse_math=False)  # fmt: skip
        for start in starts[1:-1]:
            for axis in (above, below):
                axis.axvline(start + 0.5, color=GREY, linewidth=0.8, linestyle=":")
    for axis in (above, below):
        _tidy(axis)
    figure.legend(
        *below.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=_SMALL, frameon=False
    )
    return figure


def length_figure(lengths: Mapping[str, Any]) -> "Figure":
    """Shares of pool and picks by length, on a logarithmic axis, with the medians."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
    axis = figure.subplots()
    for key, filled, colour, label in (("pool", True, _POOL, "pool"), ("picks", False, BLUE, "picked")):
        counts = np.array(lengths[key], float)
        style = {"fill": True} if filled else {"linewidth": 1.8}
        axis.stairs(counts / counts.sum(), lengths["edges"], color=colour, label=label, **style)
        median = max(1.0, lengths["of_pool" if key == "pool" else "of_picks"][2])
        axis.axvline(median, color=GREY if filled else BLUE, linewidth=1.2, linestyle=":" if filled else "--")
    axis.set_xscale("log")
    axis.set_xlim(lengths["edges"][0], lengths["edges"][-1])
    axis.set_ylim(0)
    n_decades = np.log10(lengths["edges"][-1] / lengths["edges"][0])
    steps = (1, 2, 5) if n_decades <= 2 else (1, 3) if n_decades <= 4.5 else (1,)  # so that numbers have room
    axis.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else ""))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel(lengths["unit"], fontsize=_SMALL)
    axis.set_ylabel("share of rows", fontsize=_SMALL)
    _tidy(axis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=_SMALL, frameon=False)
    return figure


def _tidy(axis: "Axes") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_SMALL)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
