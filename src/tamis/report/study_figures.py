"""Figures of a study, from its tables: panels are targets (and models); what was not measured is not drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tamis.report.figures import GREY, short
from tamis.report.study_panels import COLOURS, Style, grid, legend, outer_labels, panels, plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_SOURCES = 8  # sources with a colour of their own; the rest are one
_ACROSS = ("", "100%")  # budgets of zero-shot and the full pool


# ---- budgets -------------------------------------------------------------------------------------------------------


def curves_figure(
    means: pd.DataFrame, measure: str, x: str, look: Mapping[str, Style], labels: Mapping[str, str]
) -> "Figure":
    """A measure against examples or tokens (`x`, its axis logarithmic) by method, with intervals.

    means    of the study: target, model, method, budget, `x`, measure, measure_low, measure_high
    labels   axis labels of `x` and measure

    What has no budget of its own (zero-shot, the full pool) is a line across.
    """
    drawn_panels = list(panels(means))
    figure, axes = grid(len(drawn_panels))
    for (title, group), axis in zip(drawn_panels, axes, strict=True):
        drawn = [name for name in look if name in set(group["method"])]
        for place, name in enumerate(drawn):
            own = group[(group["method"] == name) & group[measure].notna()].sort_values(x)
            if not len(own):
                continue
            if own["budget"].isin(_ACROSS).all():
                colour, dash = look[name].colour, (":" if (own["budget"] == "").all() else "-")
                axis.axhline(float(own[measure].iloc[0]), color=colour, linestyle=dash, linewidth=1.1, label=name)
                continue
            values = own[measure].to_numpy()
            spread = np.abs(np.array([own[f"{measure}_low"], own[f"{measure}_high"]]) - values)
            at = own[x].to_numpy(np.float64) * 1.018 ** (place - (len(drawn) - 1) / 2)  # beside each other
            axis.errorbar(at, values, yerr=np.nan_to_num(spread), elinewidth=0.8, label=name, **look[name].of_line())
        axis.set_xscale("log")
        plain_ticks(axis, group.loc[~group["budget"].isin(_ACROSS), x])
        axis.set_title(short(title), fontsize=10, loc="left", parse_math=False)
    outer_labels(axes, labels[x], labels[measure])
    legend(figure, axes, list(look))
    return figure


def differences_figure(
    differences: pd.DataFrame, measure: str, look: Mapping[str, Style], shown: Sequence[str], label: str
) -> "Figure":
    """Difference to random by budget, with intervals: filled where it is shown after correction (`shown` verdicts)."""
    own = differences[differences["measure"] == measure]
    drawn_panels = list(panels(own))
    figure, axes = grid(len(drawn_panels))
    for (title, group), axis in zip(drawn_panels, axes, strict=True):
        places = {budget: place for place, budget in enumerate(dict.fromkeys(group["budget"]))}
        drawn = [name for name in look if name in set(group["method"])]
        axis.axhline(0, color=GREY, linewidth=0.8)
        for number, name in enumerate(drawn):
            style, dodge = look[name], 0.7 * ((number + 0.5) / len(drawn) - 0.5)
            for _, row in group[group["method"] == name].iterrows():
                at, filled = places[row["budget"]] + dodge, row["verdict"] in shown
                if np.isfinite(row["low"]):
                    axis.plot([at, at], [row["low"], row["high"]], color=style.colour, linewidth=1)
                face = style.colour if filled else "white"
                axis.plot(at, row["difference"], style.marker, color=style.colour, markerfacecolor=face, markersize=5)
            axis.plot([], [], style.marker, color=style.colour, label=name)
        axis.set_xticks(range(len(places)), list(places), fontsize=8, parse_math=False)
        axis.set_title(short(title), fontsize=10, loc="left", parse_math=False)
    outer_labels(axes, "budget", label)
    legend(figure, axes, list(look))
    return figure


def ranks_figure(ranks: pd.DataFrame, order: Sequence[str], labels: Mapping[str, str]) -> "Figure":
    """Mean ranks as heat maps: methods by budgets, one panel a measure; dark is good."""
    measures = list(dict.fromkeys(ranks["measure"]))
    n_rows = len([name for name in order if name in set(ranks["method"])])
    figure, axes = grid(len(measures), (3.6, 0.9 + 0.3 * n_rows))
    for measure, axis in zip(measures, axes, strict=True):
        own = ranks[ranks["measure"] == measure]
        budgets, names = list(dict.fromkeys(own["budget"])), [name for name in order if name in set(own["method"])]
        table = own.pivot_table(index="method", columns="budget", values="mean_rank").reindex(names)[budgets]
        values = table.to_numpy(np.float64)
        axis.imshow(np.ma.masked_invalid(values), cmap="Blues_r", vmin=0.2, vmax=len(names) + 0.5, aspect="auto")
        for row, column in np.argwhere(np.isfinite(values)):
            ink = "white" if values[row, column] < 0.45 * len(names) else "black"
            axis.text(column, row, f"{values[row, column]:.1f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_xticks(range(len(budgets)), budgets, fontsize=8, parse_math=False)
        axis.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8, parse_math=False)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(labels[measure], fontsize=10, loc="left")
        axis.set_xlabel("budget", fontsize=9)
    return figure


# ---- quantiles -----------------------------------------------------------------------------------------------------


def bins_figure(
    bins: pd.DataFrame, measure: str, look: Mapping[str, Style], titles: Mapping[tuple[str, str, str], str], label: str
) -> "Figure":
    """A measure by distance bin, a row of panels for each target and model, a panel for each series.

    titles   what stands above a panel, by target, model and series
    """
    series = [name for name in look if name in set(bins["series"])]
    rows = list(panels(bins))
    figure, axes = grid(len(rows) * len(series), (2.6, 1.75), n_columns=len(series), sharey="row")
    for number, axis in enumerate(axes):
        title, group = rows[number // len(series)]
        name = series[number % len(series)]
        own = group[(group["series"] == name) & group[measure].notna()].sort_values("bin")
        if not len(own):
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", fontsize=8, color=GREY)
            continue
        values = own[measure].to_numpy()
        if f"{measure}_low" in own:
            spread = np.abs(np.array([own[f"{measure}_low"], own[f"{measure}_high"]]) - values)
            axis.errorbar(own["bin"], values, yerr=np.nan_to_num(spread), elinewidth=0.8, **look[name].of_line())
        else:
            axis.plot(own["bin"], values, **look[name].of_line())
        axis.set_xticks([int(own["bin"].min()), int(own["bin"].max())], ["nearest", "farthest"], fontsize=8)
        key = (str(own["target"].iloc[0]), str(own["model"].iloc[0]), name)
        above = f"{short(title)}, {short(name)}"
        axis.set_title(f"{above}\n{titles.get(key, '')}".rstrip(), fontsize=8.5, loc="left", parse_math=False)
        axis.tick_params(axis="y", labelsize=8)
    outer_labels(axes, "", label, len(series))
    return figure


# ---- costs and sources ---------------------------------------------------------------------------------------------


def cost_figure(costs: pd.DataFrame, measure: str, look: Mapping[str, Style], label: str) -> "Figure":
    """Mean gain over random against seconds of selecting: a panel for each target and model."""
    own = costs[costs[f"gain_{measure}"].notna() & (costs["selecting_seconds"] > 0)]
    drawn_panels = list(panels(own))
    figure, axes = grid(len(drawn_panels))
    for (title, group), axis in zip(drawn_panels, axes, strict=True):
        axis.axhline(0, color=GREY, linewidth=0.8)
        for _, row in group.iterrows():
            style = look[row["method"]]
            axis.plot(
                row["selecting_seconds"], row[f"gain_{measure}"], style.marker, color=style.colour, markersize=7,
                label=row["method"], linestyle="none",
            )  # fmt: skip
        axis.set_xscale("log")
        axis.margins(0.15)
        axis.set_title(short(title), fontsize=10, loc="left", parse_math=False)
    outer_labels(axes, "seconds of selecting", label)
    legend(figure, axes, list(look))
    return figure


def composition_figure(composition: pd.DataFrame, order: Sequence[str]) -> "Figure":
    """What each method picked, by source, at each budget, with the pool below: shares as stacked bars."""
    totals = composition.groupby("source")["n_picked"].sum().sort_values(ascending=False, kind="stable")
    sources = list(totals.index[:_N_SOURCES])
    drawn_panels = [
        (f"{title}, {budget}", here)
        for title, group in panels(composition)
        for budget, here in group.groupby("budget", sort=False)
    ]
    n_bars = max(here["method"].nunique() for _, here in drawn_panels) + 1
    figure, axes = grid(len(drawn_panels), (3.6, 0.8 + 0.24 * n_bars))
    for (title, here), axis in zip(drawn_panels, axes, strict=True):
        names = [name for name in order if name in set(here["method"])]
        pool = here.drop_duplicates("source").set_index("source")["pool_share"]
        bars = [here[here["method"] == name].set_index("source")["share"] for name in names] + [pool]
        left = np.zeros(len(bars))
        shares = [[float(bar.get(source, 0.0)) for bar in bars] for source in sources]
        if len(totals) > _N_SOURCES:
            shares.append([max(0.0, 1 - sum(of)) for of in zip(*shares, strict=True)])
        for place, source in enumerate([*sources, None][: len(shares)]):
            colour = "#bbbbbb" if source is None else COLOURS[place]
            hatch = "" if place % 2 == 0 else "////"  # apart in grey print too
            axis.barh(
                range(len(bars)), shares[place], left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4,
                label="other sources" if source is None else source,
            )  # fmt: skip
            left += shares[place]
        axis.set_yticks(range(len(bars)), [*map(short, names), "pool"], fontsize=8, parse_math=False)
        axis.invert_yaxis()
        axis.set(xlim=(0, 1))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(short(title), fontsize=10, loc="left", parse_math=False)
    legend(figure, axes)
    return figure
