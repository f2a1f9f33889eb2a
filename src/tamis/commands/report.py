"""`tamis report`: the page of a study, of a selection, or of result tables that others published, from its folder."""

from typing import Annotated

import typer

from tamis.commands.common import guard
from tamis.errors import InputError, printable
from tamis.remote import Place, locate


def report(
    folder: Annotated[str, typer.Argument(help="a study, a selection, or a folder of result tables (CSV)")],
    out: Annotated[
        str | None, typer.Option("--out", help="folder to write to (default: into a study; beside result tables)")
    ] = None,
) -> None:
    """Make the report of a folder anew: report.html, figures as SVG, PNG and PDF, tables as CSV."""

    def show() -> None:
        for line in _made(locate(folder), None if out is None else locate(out)):
            typer.echo(printable(line))

    guard(show)


def _made(folder: Place, out: Place | None) -> list[str]:
    from tamis.remote.folders import UNFINISHED
    from tamis.study import foreign, tables
    from tamis.study.page import write_foreign_report, write_report

    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected the folder of a study, a selection or result tables, found {found}")
    if (folder / UNFINISHED).exists():
        raise InputError(f"{folder}: expected a whole folder, but its upload broke off; run again what wrote it")
    if tables.is_study(folder):
        return [*write_report(folder, out), _written(out or folder)]
    if (folder / "picks.parquet").exists() or (folder / "report.json").exists():
        if out is not None:
            raise InputError(f"{folder}: a selection's report is written into its folder; leave out --out")
        from tamis.report.html import rerender

        rerender(folder)
        return [_written(folder)]
    if foreign.is_foreign(folder):
        out = out or folder.with_name(f"{folder.resolve().name}-report")
        return [*write_foreign_report(folder, out), _written(out)]
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise InputError(
        f"{folder}: expected a study (results.csv and study.json), a selection (picks.parquet) or tables of results"
        f" (.csv), found {names}"
    )


def _written(folder: Place) -> str:
    return f"written to {folder}: report.html, figures/, tables/"
