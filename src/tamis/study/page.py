"""report.html of a study, with figures/ (SVG, PNG, PDF) and tables/ (CSV) beside it; equal tables give equal bytes."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.errors import InputError
from tamis.remote import Place
from tamis.remote.folders import edited, reading
from tamis.report.figures import save_figure
from tamis.report.html import render_page
from tamis.report.pages import writing_report
from tamis.store.files import put
from tamis.study import foreign, tables
from tamis.study.sections import sections
from tamis.study.summary import caveats, headline, summarise
from tamis.study.tables import Results

_N_CHARACTERS = 1200
HOW_TO_READ = (
    "A loss is a mean over test examples (test loss) or over the examples that described the target (query loss), lower"
    " is better. “Better” and “worse” are said where the difference to random stays significant at 5% after correction"
    " for all comparisons made; “no difference shown” does not say that there is none."
)


def write_report(folder: Place, out: Place | None = None) -> list[str]:
    """The report of a study, into its own folder or with its tables into another; what it shows, in sentences.

    InputError for a folder that is no study, or tables that are not as `tamis.study.tables` says.
    """
    if out is not None and out.resolve() != folder.resolve():
        with reading(folder) as here:
            study = tables.read(here)
        return _write_elsewhere(study, out)
    with edited(folder, "study.json") as here:
        return _write_inside(here)


def _write_inside(folder: Path) -> list[str]:
    study = tables.read(folder)
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
    return lines


def write_foreign_report(source: Place, out: Place) -> list[str]:
    """The report on result tables that others published, into a folder of its own, which is a study from then on."""
    if f"{out.resolve()}/".startswith(f"{source.resolve()}/"):
        raise InputError(f"{out}: a report is not written among the tables it is on; choose another --out")
    with reading(source) as here:
        study = foreign.read(here)
    return _write_elsewhere(study, out)


def _write_elsewhere(study: Results, out: Place) -> list[str]:
    with writing_report(out) as temporary:
        lines = _write(temporary, study)
        tables.write(temporary, study)
        put(temporary / "manifest.json", b'{"holds": "a study"}\n')  # without one nothing would replace the folder
    return lines


def _write(folder: Path, study: Results) -> list[str]:
    summary = summarise(study)
    said = headline(study, summary)
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    for name, table in summary.tables():
        put(folder / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    drawn = sections(summary, lambda stem, figure: save_figure(figure, folder / "figures", stem))
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
        sections=[section for section in drawn if section.parts],
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
