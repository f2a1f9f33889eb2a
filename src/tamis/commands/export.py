"""The command that hands a selection to another trainer."""

from typing import Annotated

import typer

from tamis.commands.common import guard
from tamis.errors import printable
from tamis.remote import locate


def export(
    selection: Annotated[str, typer.Argument(help="folder of a selection")],
    trainer: Annotated[str, typer.Option("--for", help="llama-factory, axolotl, trl, messages or parquet")],
    out: Annotated[str | None, typer.Option("--out", help="folder to write to (default: SELECTION-TRAINER)")] = None,
) -> None:
    """Write a selection as another trainer reads it, and say what that trainer does not take over."""

    def write() -> None:
        from tamis.data.exports import export

        folder, made = export(locate(selection), trainer, None if out is None else locate(out))
        typer.echo(printable(f"written to {folder}: {', '.join([*made.files, 'README.md'])}"))
        typer.echo(printable(f"use: {made.usage}"))
        for line in made.lost:
            typer.echo(printable(f"not taken over: {line}"))

    guard(write)
