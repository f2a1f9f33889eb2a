"""The sections of a study's page: which figures and tables, in which order, and what opens only when asked for."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tamis.report import study_figures as figures
from tamis.report.study_panels import Style, styles
from tamis.study import shown
from tamis.study.budgets import DISTANCES, MEASURES, SCORE, methods
from tamis.study.comparisons import BETTER, WORSE
from tamis.study.matrix import each, label, number, rho_interval
from tamis.study.quantiles import ASKED, BIN, names
from tamis.study.summary import Summary
from tamis.study.tables import BASELINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure on the page, and the stem of its files."""

    stem: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """What is seen at once, and what opens."""

    title: str
    parts: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)


Draw = Callable[[str, "Figure"], Markup]  # saves a figure under a stem, and gives its SVG


def _drawn(draw: Draw, stem: str, title: str, caption: str, figure: "Figure") -> Drawn:
    return Drawn(stem, title, caption, draw(stem, figure))


def sections(summary: Summary, draw: Draw) -> Iterator[Section]:
    """Every section that a study may have; one without parts has nothing to show."""
    look = styles(methods(summary.means), BASELINES)
    yield _against_random(summary, look, draw)
    yield _by_budget(summary, look, draw)
    yield _ranks(summary, draw)
    yield _equal_tokens(summary, look, draw)
    yield _by_distance(summary, draw)
    yield _selectors(summary, draw)
    yield _costs(summary, look, draw)
    yield _sources(summary, draw)


def _against_random(summary: Summary, look: dict[str, Style], draw: Draw) -> Section:
    section = Section("Against random picks")
    for place, (measure, table) in enumerate(shown.against_random(summary)):
        figure = figures.differences_figure(
            summary.differences, measure, look, (BETTER, WORSE), f"{label(measure)}, minus random"
        )
        caption = "Filled: shown after correction. Lines: 95% intervals; with one seed on a side over examples only."
        drawn = _drawn(draw, f"difference_{measure}", f"{label(measure)}, minus random", caption, figure)
        (section.more if place else section.parts).extend([drawn, table])
    return section


def _by_budget(summary: Summary, look: dict[str, Style], draw: Draw) -> Section:
    section = Section("What each budget reached")
    for place, (measure, table) in enumerate(shown.reached(summary)):
        for x, what in (("n_examples", "examples"), ("n_tokens", "supervised tokens")):
            if summary.means[x].notna().any():
                labels = {x: what, measure: label(measure)}
                figure = figures.curves_figure(summary.means, measure, x, look, labels)
                caption = "Means over seeds, 95% intervals; lines across: zero-shot dotted, the full pool solid."
                title = f"{label(measure)} by {what}"
                drawn = _drawn(draw, f"{measure}_by_{x[2:]}", title, caption, figure)
                (section.more if place and x == "n_tokens" else section.parts).append(drawn)
        section.more.append(table)
    return section


def _ranks(summary: Summary, draw: Draw) -> Section:
    section = Section("Mean rank over targets")
    if len(summary.ranks):
        figure = figures.ranks_figure(summary.ranks, methods(summary.ranks), {**MEASURES})
        section.parts.append(
            _drawn(draw, "ranks", "mean ranks", "Dark is good: 1 would be best on every target.", figure)
        )
        section.parts.append(shown.rank_tests(summary.ranks))
    return section


def _equal_tokens(summary: Summary, look: dict[str, Style], draw: Draw) -> Section:
    section = Section("At equal supervised tokens")
    if len(summary.equal_tokens):
        section.parts.append(shown.at_equal_tokens(summary, str(summary.equal_tokens["measure"].iloc[0])))
    return section


def _by_distance(summary: Summary, draw: Draw) -> Section:
    section = Section("Does loss grow with distance?")
    for place, table in enumerate(shown.with_distance(summary)):
        (section.parts if place < len(MEASURES) else section.more).append(table)
    for experiment in dict.fromkeys(summary.bins["experiment"]):
        own = summary.bins[summary.bins["experiment"] == experiment]
        look = styles(names(summary.bins))
        name = experiment.partition(":")[2]
        stem = re.sub(r"\W+", "_", f"_{name}") if name else ""  # of a file: no name leads out of the folder
        for measure in (*ASKED, *DISTANCES):
            if own[measure].notna().any():
                titles = _rhos(summary, experiment, measure)
                figure = figures.bins_figure(own, measure, look, titles, label(measure))
                title = f"{label(measure)} by distance{f' ({name})' if name else ''}"
                caption = f"{title}: bins of the pool from nearest to farthest, each trained on alone."
                is_loss = measure in MEASURES and measure != SCORE
                (section.parts if is_loss else section.more).append(
                    _drawn(draw, f"bins_{measure}{stem}", title, caption, figure)
                )
    return section


def _rhos(summary: Summary, experiment: str, measure: str) -> dict[tuple[str, str, str], str]:
    own = summary.correlations
    own = own[(own["experiment"] == experiment) & (own["x"] == BIN) & (own["y"] == measure)]
    return {
        (row.target, row.model, row.series): f"ρ = {number(row.rho, 2)}"
        + (f" {rho_interval(row)}" if row.low == row.low else "")
        for row in each(own)
    }


def _selectors(summary: Summary, draw: Draw) -> Section:
    section = Section("Which distance do selectors reach?")
    if summary.means[list(DISTANCES)].notna().any(axis=None):
        if len(summary.distance_ranks):
            figure = figures.ranks_figure(summary.distance_ranks, methods(summary.distance_ranks), {**DISTANCES})
            caption = "Mean rank over targets by the distance of the picks to the target. Dark: nearer."
            section.parts.append(_drawn(draw, "distance_ranks", "mean ranks by distance", caption, figure))
        if len(summary.distance_correlations):
            section.parts.append(shown.by_distance(summary))
        section.more.append(shown.distances(summary))
    return replace(section, parts=section.parts or section.more, more=section.more if section.parts else [])


def _costs(summary: Summary, look: dict[str, Style], draw: Draw) -> Section:
    section = Section("What it costs, and gives")
    own = summary.cost_benefit
    if len(own):
        section.parts.append(shown.costs(summary))
        for measure in MEASURES:
            if (own[f"gain_{measure}"].notna() & (own["selecting_seconds"] > 0)).any():
                figure = figures.cost_figure(own, measure, look, f"gain in {label(measure)}")
                title = f"gain in {label(measure)} against cost"
                caption = (
                    "Gain over random, mean over budgets, against seconds of selecting: right is dearer, up better."
                )
                section.parts.append(_drawn(draw, f"cost_{measure}", title, caption, figure))
                break
    return section


def _sources(summary: Summary, draw: Draw) -> Section:
    section = Section("What was picked, by source")
    own = summary.composition
    if len(own):
        figure = figures.composition_figure(own, methods(own))
        section.parts.append(
            _drawn(draw, "composition", "sources", "Shares of the picks, mean over seeds; last the pool.", figure)
        )
        section.more.append(shown.sources(summary))
    return section
