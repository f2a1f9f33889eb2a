"""report.html of a study, with figures/ (SVG, PNG, PDF) and tables/ (CSV) beside it; equal tables give equal bytes."""

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tamis.errors import InputError
from tamis.report import study_figures as figures
from tamis.report.figures import save_figure
from tamis.report.html import render_page
from tamis.report.pages import writing_report
from tamis.store.files import put
from tamis.study import foreign, shown, tables
from tamis.study.budgets import DISTANCES, MEASURES, methods
from tamis.study.comparisons import BETTER, WORSE
from tamis.study.quantiles import ASKED, BIN, names
from tamis.study.summary import Summary, caveats, headline, summarise
from tamis.study.tables import BASELINES, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tamis.report.study_figures import Style

_N_CHARACTERS = 1200
HOW_TO_READ = (
    "A loss is a mean over test examples (test loss) or over the examples that described the target (query loss), lower"
    " is better. “Better” and “worse” are said where the difference to random stays significant at 5% after correction"
    " for all comparisons made; “no difference shown” does not say that there is none."
)


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


def write_report(folder: Path, out: Path | None = None) -> list[str]:
    """The report of a study, into its own folder or with its tables into another; lines for a terminal.

    InputError for a folder that is no study, or tables that are not as `tamis.study.tables` says.
    """
    study = tables.read(folder)
    if out is not None and out.resolve() != folder.resolve():
        return _write_elsewhere(study, out)
    temporary = folder / f".report.{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        lines = _write(temporary, study)
        for name in ("figures", "tables"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (temporary / name).rename(folder / name)
        put(folder / "report.html", (temporary / "report.html").read_bytes())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [*lines, f"written to {folder}: report.html, figures, tables"]


def write_foreign_report(source: Path, out: Path) -> list[str]:
    """The report on result tables that others published, into a folder of its own, which is a study from then on."""
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out}: a report is not written among the tables it is on; choose another --out")
    return _write_elsewhere(foreign.read(source), out)


def _write_elsewhere(study: Results, out: Path) -> list[str]:
    with writing_report(out) as temporary:
        lines = _write(temporary, study)
        tables.write(temporary, study)
        put(temporary / "manifest.json", b'{"holds": "a study"}\n')  # without one nothing would replace the folder
    return [*lines, f"written to {out}: report.html, figures, tables, results.csv"]


def _write(folder: Path, study: Results) -> list[str]:
    summary = summarise(study)
    said = headline(study, summary)
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    for name, table in summary.tables():
        put(folder / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    sections = [one for one in _sections(summary, _draw(folder / "figures")) if one.parts]
    versions = study.manifest.get("versions") or {}
    provenance = [(str(name), str(version)) for name, version in versions.items()]
    if files := study.manifest.get("files"):
        provenance.append(("read from", ", ".join(map(str, files))))
    page = render_page(
        "study.html.j2",
        title=str(study.manifest.get("title") or "Study"),
        headline=said,
        caveats=caveats(study, summary),
        how_to_read=HOW_TO_READ,
        sections=sections,
        shown=[_cut(one) for one in study.shown],
        provenance=[("cells", _n_cells(study)), *provenance],
        tables=[name for name, _ in summary.tables()],
        settings=str(study.manifest.get("settings") or ""),
    )
    put(folder / "report.html", page.encode())
    return said


def _n_cells(study: Results) -> str:
    n_pending = int(study.manifest.get("n_pending") or 0)
    return f"{len(study.results):,}" + (f", and {n_pending:,} pending" if n_pending else "")


def _cut(one: dict[str, Any]) -> dict[str, Any]:
    def short(turns: Sequence[Sequence[str]] | None) -> list[tuple[str, str]]:
        return [
            (role, text if len(text) <= _N_CHARACTERS else text[:_N_CHARACTERS] + " …") for role, text in turns or []
        ]

    return {**one, "picked": short(one["picked"]), "nearest": short(one["nearest"])}


# ---- sections ------------------------------------------------------------------------------------------------------

Draw = Callable[[str, str, str, "Figure"], Drawn]


def _draw(folder: Path) -> Draw:
    def draw(stem: str, title: str, caption: str, figure: "Figure") -> Drawn:
        return Drawn(stem, title, caption, save_figure(figure, folder, stem))

    return draw


def _sections(summary: Summary, draw: Draw) -> Iterator[Section]:
    look = figures.styles(methods(summary.means), BASELINES)
    yield _against_random(summary, look, draw)
    yield _by_budget(summary, look, draw)
    yield _ranks(summary, draw)
    yield _equal_tokens(summary, look, draw)
    yield _by_distance(summary, draw)
    yield _selectors(summary, draw)
    yield _costs(summary, look, draw)
    yield _sources(summary, draw)


def _against_random(summary: Summary, look: "dict[str, Style]", draw: Draw) -> Section:
    section = Section("Against random picks")
    for number, (measure, table) in enumerate(shown.against_random(summary)):
        figure = figures.differences_figure(
            summary.differences, measure, look, (BETTER, WORSE), f"{shown.label(measure)}, minus random"
        )
        caption = "Filled: shown after correction. Lines: 95% intervals."
        drawn = draw(f"difference_{measure}", f"{shown.label(measure)}, minus random", caption, figure)
        (section.more if number else section.parts).extend([drawn, table])
    return section


def _by_budget(summary: Summary, look: "dict[str, Style]", draw: Draw) -> Section:
    section = Section("What each budget reached")
    for measure, table in shown.reached(summary):
        for x, label in (("n_examples", "examples"), ("n_tokens", "supervised tokens")):
            if summary.means[x].notna().any():
                labels = {x: label, measure: shown.label(measure)}
                figure = figures.curves_figure(summary.means, measure, x, look, labels)
                caption = "Means over seeds, 95% intervals; lines across: zero-shot dotted, the full pool solid."
                title = f"{shown.label(measure)} by {label}"
                section.parts.append(draw(f"{measure}_by_{x[2:]}", title, caption, figure))
        section.more.append(table)
    return section


def _ranks(summary: Summary, draw: Draw) -> Section:
    section = Section("Mean rank over targets")
    if len(summary.ranks):
        figure = figures.ranks_figure(summary.ranks, methods(summary.ranks), {**MEASURES})
        section.parts.append(draw("ranks", "mean ranks", "Dark is good: 1 would be best on every target.", figure))
        section.parts.append(shown.rank_tests(summary.ranks))
    return section


def _equal_tokens(summary: Summary, look: "dict[str, Style]", draw: Draw) -> Section:
    section = Section("At equal supervised tokens")
    if len(summary.equal_tokens):
        section.parts.append(shown.at_equal_tokens(summary, str(summary.equal_tokens["measure"].iloc[0])))
    return section


def _by_distance(summary: Summary, draw: Draw) -> Section:
    section = Section("Does loss grow with distance?")
    for number, table in enumerate(shown.with_distance(summary)):
        (section.parts if number < len(MEASURES) else section.more).append(table)
    for experiment in dict.fromkeys(summary.bins["experiment"]):
        own = summary.bins[summary.bins["experiment"] == experiment]
        look = figures.styles(names(summary.bins))
        name = experiment.partition(":")[2]
        for measure in (*ASKED, *DISTANCES):
            if own[measure].notna().any():
                titles = _rhos(summary, experiment, measure)
                figure = figures.bins_figure(own, measure, look, titles, shown.label(measure))
                title = f"{shown.label(measure)} by distance{f' ({name})' if name else ''}"
                caption = f"{title}: bins of the pool from nearest to farthest, each trained on alone."
                place = section.parts if measure in MEASURES and measure != "score" else section.more
                place.append(draw(f"bins_{measure}{f'_{name}' if name else ''}", title, caption, figure))
    return section


def _rhos(summary: Summary, experiment: str, measure: str) -> dict[tuple[str, str, str], str]:
    own = summary.correlations
    own = own[(own["experiment"] == experiment) & (own["x"] == BIN) & (own["y"] == measure)]
    return {
        (row.target, row.model, row.series): f"ρ = {shown.number(row.rho, 2)}"
        + (f" {shown.rho_interval(row)}" if row.low == row.low else "")
        for row in shown.each(own)
    }


def _selectors(summary: Summary, draw: Draw) -> Section:
    section = Section("Which distance do selectors reach?")
    if summary.means[list(DISTANCES)].notna().any(axis=None):
        if len(summary.distance_ranks):
            figure = figures.ranks_figure(summary.distance_ranks, methods(summary.distance_ranks), {**DISTANCES})
            caption = "Mean rank over targets by the distance of the picks to the target. Dark: nearer."
            section.parts.append(draw("distance_ranks", "mean ranks by distance", caption, figure))
        if len(summary.distance_correlations):
            section.parts.append(shown.by_distance(summary))
        section.more.append(shown.distances(summary))
    return replace(section, parts=section.parts or section.more, more=section.more if section.parts else [])


def _costs(summary: Summary, look: "dict[str, Style]", draw: Draw) -> Section:
    section = Section("What it costs, and gives")
    own = summary.cost_benefit
    if len(own):
        section.parts.append(shown.costs(summary))
        for measure in MEASURES:
            if (own[f"gain_{measure}"].notna() & (own["selecting_seconds"] > 0)).any():
                figure = figures.cost_figure(own, measure, look, f"gain in {shown.label(measure)}")
                title = f"gain in {shown.label(measure)} against cost"
                caption = (
                    "Gain over random, mean over budgets, against seconds of selecting: right is dearer, up better."
                )
                section.parts.append(draw(f"cost_{measure}", title, caption, figure))
                break
    return section


def _sources(summary: Summary, draw: Draw) -> Section:
    section = Section("What was picked, by source")
    own = summary.composition
    if len(own):
        figure = figures.composition_figure(own, methods(own))
        section.parts.append(
            draw("composition", "sources", "Shares of the picks, mean over seeds; last the pool.", figure)
        )
        section.more.append(shown.sources(summary))
    return section
