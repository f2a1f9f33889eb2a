"""Commands that look at files: inspect, compare, verify."""

import itertools
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tamis.commands.common import FieldColumns, FormatName, ModelName, RemoteCode, Template, fields, guard
from tamis.errors import InputError, printable
from tamis.remote import locate


def inspect(
    files: Annotated[list[str], typer.Argument(help="files to read")],
    tokens: Annotated[bool, typer.Option("--tokens", help="show tokens, coloured where the loss counts them")] = False,
    model: ModelName = None,
    template: Template = None,
    rows: Annotated[int | None, typer.Option("--rows", help="rows to show (default: 3, of many files 0)")] = None,
    bad_rows: Annotated[int, typer.Option("--bad-rows", help="bad rows to show of a file")] = 5,
    field: FieldColumns = None,
    format: FormatName = None,
    trust_remote_code: RemoteCode = None,
) -> None:
    """Show how files are read: format, fields, bad rows; and how rows are rendered and masked."""
    overrides = {
        "data.fields": fields(field or []),
        "data.format": format,
        "data.max_bad_rows": "100%",
        "model.name": model,
        "model.template": template,
        "model.trust_remote_code": bool(trust_remote_code),
    }

    def show() -> None:
        from tamis.data.places import expand

        if tokens and model is None:
            raise InputError("--tokens needs a tokenizer: say --model FOLDER or hub name")
        several = len(files) > 1
        n_refused = 0
        for file in expand(files) if not several else files:
            try:
                _inspect(file, overrides, (0 if several else 3) if rows is None else rows, bad_rows, tokens)
            except InputError as error:
                if not several:
                    raise
                n_refused += 1
                typer.echo(f"refused: {error}")
        if n_refused:
            raise typer.Exit(2)

    guard(show)


def _inspect(file: str, overrides: dict[str, Any], n_rows: int, n_bad: int, tokens: bool) -> None:
    from rich.console import Console

    from tamis.config import load_config
    from tamis.inputs import Inputs
    from tamis.report.terminal import example_text, token_text

    inputs = Inputs(load_config(None, {**overrides, "data.pool": file}), lambda _: None)
    pool = inputs.pool
    for report in inputs.files:
        counted = f"{report.n_good:,} row{'s' * (report.n_good != 1)}" + (
            f", {report.n_bad:,} bad" if report.n_bad else ""
        )
        equal = f"; equal to an earlier row: {pool.n_duplicates:,}" if pool.n_duplicates else ""
        typer.echo(printable(f"{report.path}: {counted}, {report.recognised}{equal}"))
    for bad in inputs.rejected[:n_bad]:
        typer.echo(f"  row {bad.row}: {printable(bad.reason)}")
    if len(inputs.rejected) > n_bad:
        typer.echo(f"  and {len(inputs.rejected) - n_bad:,} more (--bad-rows {len(inputs.rejected)} shows them)")
    console = Console(highlight=False)
    for example in itertools.islice(pool, n_rows):
        encoded = inputs.encode(example) if tokens else ""
        if isinstance(encoded, str):
            console.print(example_text(example), encoded)
        else:
            console.print(token_text(example, encoded, inputs.tokenizer, colour=console.is_terminal))


def compare(
    selections: Annotated[list[str], typer.Argument(help="folders of selections, each FOLDER or NAME=FOLDER")],
    out: Annotated[str | None, typer.Option("--out", help="folder for table, heat maps and page")] = None,
) -> None:
    """Tell how far selections agree, two by two: shared picks, ranks, and scores over the whole pool."""

    def show() -> None:
        from tamis import agreement
        from tamis.report.pages import check_place

        folder = None if out is None else locate(out)
        if folder is not None:
            check_place(folder)
        read = agreement.read_selections(selections)
        pairs = agreement.compare(read)
        _show(agreement.lines(pairs))
        if folder is not None:
            agreement.write(folder, read, pairs)
            files = "agreement.csv, agreement.svg, .png and .pdf, report.html, manifest.json"
            typer.echo(f"written to {printable(str(folder))}: {files}")

    guard(show)


def _show(lines: Iterable[str]) -> None:
    """Lines as they are; on a terminal with a bold heading and faint remarks."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for number, line in enumerate(lines):
        console.print(Text(line, "dim" if line.startswith("    ") else "" if number else "bold"), soft_wrap=True)


def verify(folder: Annotated[str, typer.Argument(help="a workspace, or one feature store in it")]) -> None:
    """Check every checksum; damaged shards are named and set aside, and the next run recomputes them."""

    def check() -> None:
        from tamis.verify import verify_folder

        n_whole, damaged = verify_folder(locate(folder))
        for path, reason in damaged:
            typer.echo(f"damaged: {path}: {reason}")
        typer.echo(f"{n_whole:,} files whole, {len(damaged):,} damaged")
        if damaged:
            raise typer.Exit(1)

    guard(check)
