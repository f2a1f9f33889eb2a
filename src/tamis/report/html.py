"""report.html: one file, no network, every text from data escaped."""

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined, UndefinedError
from markupsafe import Markup

from tamis.data.selection import Selection
from tamis.errors import InputError, printable
from tamis.remote import Place
from tamis.remote.folders import edited
from tamis.report.figures import as_svg, save_figure
from tamis.report.headline import headline
from tamis.report.selection_figures import selection_figures

FORMAT = 1  # of report.json
N_REASONS = 10
_N_OPEN = 10  # picks that are seen at once
_N_HEAD = 500  # characters of a turn before "show more"


# ---- of a selection ------------------------------------------------------------------------------------------------


def report_facts(selection: Selection, manifest: Mapping[str, Any], config: str) -> dict[str, Any]:
    """All that the page of a selection tells: its facts, and of its manifest what is short."""
    picked = {(example.file, example.row) for example in selection.examples}
    counted = {
        name: {
            what: {
                "n": len(rows),
                "n_picked": sum((row["file"], row["row"]) in picked for row in rows),
                "rows": rows[:N_REASONS],
            }
            for what, rows in manifest.get(name, {}).items()
        }
        for name in ("left_out", "kept")
    }
    return {"format": FORMAT, **selection.facts, "manifest": {**manifest, **counted}, "config": config}


def write_report(folder: Path, facts: Mapping[str, Any], *, all_formats: bool = False) -> None:
    """report.json, which holds the facts, and what is made from it: report.html, figures/, tables/*.csv.

    Figures are SVG, with `all_formats` also what else `save_figure` writes.
    """
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    facts = json.loads(text)  # as `rerender` will find them
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    shown = {}
    for name, figure in selection_figures(facts).items():
        if all_formats:
            shown[name] = save_figure(figure, folder / "figures", name)
        else:
            shown[name] = as_svg(figure)
            (folder / "figures" / f"{name}.svg").write_text(
                '<?xml version="1.0" encoding="utf-8"?>\n' + str(shown[name]), encoding="utf-8"
            )
    for name, rows in _tables(facts):
        with (folder / "tables" / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    (folder / "report.html").write_text(render(facts, shown), encoding="utf-8")


def render(facts: Mapping[str, Any], figures: Mapping[str, Markup]) -> str:
    """The page of a selection."""
    return (
        _environment(StrictUndefined)
        .get_template("selection.html.j2")
        .render(
            {**facts, "figures": figures, "sentences": headline(facts)},
            cut=_cut,
            number=_number,
            n_open=_N_OPEN,
        )
    )


def _number(value: float) -> str:
    """Four digits or so of a score, which may be of any size."""
    size = abs(value)
    if value and size < 1e-4:
        return f"{value:.1e}"
    return f"{value:.4f}" if size < 0.1 else f"{value:.3f}" if size < 10 else f"{value:,.1f}"


def _cut(text: str) -> tuple[str, str]:
    """What is shown of a long text, which ends between words where it can, and the rest."""
    if len(text) <= 1.2 * _N_HEAD:
        return text, ""
    end = max(text.rfind(" ", _N_HEAD // 2, _N_HEAD), text.rfind("\n", _N_HEAD // 2, _N_HEAD))
    end = end if end > 0 else _N_HEAD
    return text[:end], text[end:]


def rerender(folder: Place) -> None:
    """Make the page, figures (in every format) and tables of a selection anew from its report.json, file by file.

    InputError where there is none, or none that this version can read.
    """
    with edited(folder, "manifest.json", wanted="report.json") as here:
        _rerender(here)


def _rerender(folder: Path) -> None:
    path = folder / "report.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: expected a selection with a report.json; give the --out folder of `tamis select`, or select "
            "again where an earlier version of tamis wrote it"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); select again") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{path}: expected a report of format {FORMAT}, found another; select again")
    with tempfile.TemporaryDirectory(prefix=".report.", suffix=".tmp", dir=folder) as temporary:
        try:
            write_report(Path(temporary), facts, all_formats=True)
        except (LookupError, TypeError, ValueError, UndefinedError) as error:
            raise InputError(f"{path}: does not hold what a report needs ({error}); select again") from error
        for made in sorted(Path(temporary).rglob("*")):
            if made.is_file():
                place = folder / made.relative_to(temporary)
                place.parent.mkdir(exist_ok=True)
                made.replace(place)


def _tables(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[list[Any]]]]:
    """The numbers behind the figures, with a header each."""
    header = ["name", "n_pool", "n_picked", "low", "high"]
    for name in ("sources", "groups"):
        if facts[name]:
            yield name, [header, *([line[key] for key in header] for line in facts[name])]
    lengths = facts["lengths"]
    yield "lengths", [["from", "to", "pool", "picks"], *map(list, _bins(lengths))]
    if panels := facts["scores"].get("panels"):
        rows = [[panel["name"], *line] for panel in panels for line in _bins(panel)]
        yield "scores", [["target", "from", "to", "pool", "picks"], *rows]
    if rows := facts["coverage"].get("rows"):
        columns = ["target", "group", "id", "n_picks", "best_pool", "best", "mean"]
        yield "coverage", [columns, *([row[key] for key in columns] for row in rows)]


def _bins(histogram: Mapping[str, Any]) -> Iterator[tuple[float, float, int, int]]:
    edges = histogram["edges"]
    yield from zip(edges, edges[1:], histogram["pool"], histogram["picks"], strict=False)


# ---- of anything ---------------------------------------------------------------------------------------------------


def render_page(template: str, **values: Any) -> str:
    """A page by its template. Text is escaped; `Markup`, such as a figure of our own, stands as it is."""
    return _environment().get_template(template).render(values)


def render_table(title: str, paragraphs: Sequence[str], header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """A page with a few paragraphs and one table."""
    return (
        _environment()
        .get_template("table.html.j2")
        .render(title=title, paragraphs=paragraphs, header=header, table=table)
    )


def _environment(undefined: type[Undefined] = Undefined) -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown_value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=undefined,
    )


def _shown_value(value: Any) -> Any:
    return printable(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value
