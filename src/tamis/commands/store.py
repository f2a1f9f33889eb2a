"""`tamis store`: what a workspace holds, in which dtype, and what of it nothing needs."""

from typing import Annotated

import typer

from tamis.commands.common import aligned, guard, size
from tamis.errors import printable
from tamis.remote import locate

app = typer.Typer(help="See what a workspace holds, convert its stores, and tidy up.", no_args_is_help=True)


@app.command("info")
def store_info(path: Annotated[str, typer.Argument(help="a workspace, or one store")] = ".tamis") -> None:
    """What each store holds: rows, how they are kept, and their bytes; and the totals of the workspace."""

    def show() -> None:
        from tamis.store.contents import is_store, store_infos, totals

        where = locate(path)
        infos = store_infos(where)
        head = ("store", "rows of", "dim", "dtype", "rows", "skipped", "shards", "size")
        cells = [
            (
                info.folder.name,
                info.what,
                "?" if info.recipe is None else str(info.recipe["dim"]),
                info.dtype,
                *(f"{number:,}" for number in (info.n_rows, info.n_skipped, info.n_shards)),
                size(info.n_bytes),
            )
            for info in infos
        ]
        if cells:
            typer.echo("\n".join(aligned([head, *cells], n_left=2)))
        for info in infos:
            if info.problem is not None:
                typer.echo(f"cannot be read: {printable(info.problem)}")
        if not is_store(where):
            for name, total in totals(where).items():
                typer.echo(f"{name}: {total.n:,}, {size(total.n_bytes)}")

    guard(show)


@app.command("convert")
def store_convert(
    store: Annotated[str, typer.Argument(help="a float16 store: a folder within the features of a workspace")],
    dtype: Annotated[str, typer.Option("--dtype", help="int8 (half the size) or sign (a sixteenth)")],
) -> None:
    """Make the store beside it that `represent.store_dtype` would make; the float16 store stays."""

    def make() -> None:
        from tamis.store.convert import convert

        done = convert(locate(store), dtype)
        kept = "" if done.n_made == done.n_shards else f", {done.n_shards - done.n_made:,} were there"
        typer.echo(f"{done.store.folder}  {done.n_made:,} shards made{kept}")
        typer.echo(f"{size(done.bytes_before)} as float16, {size(done.bytes_after)} as {dtype}")

    guard(make)


@app.command("gc")
def store_gc(
    workspace: Annotated[str, typer.Argument(help="a workspace")] = ".tamis",
    yes: Annotated[bool, typer.Option("--yes", help="delete what is listed")] = False,
    similarities: Annotated[
        bool, typer.Option("--similarities", help="all similarities too: they are computed again in seconds")
    ] = False,
    checkpoints: Annotated[
        list[str] | None, typer.Option("--checkpoints", help="a warm-up kept elsewhere, whose features are to stay")
    ] = None,
) -> None:
    """List what nothing in a workspace needs any more, with the reason; with --yes delete it."""

    def tidy() -> None:
        from tamis.store.leftovers import leftovers, remove

        kept = [locate(folder) for folder in checkpoints or []]
        found = leftovers(locate(workspace), similarities=similarities, checkpoints=kept)
        for leftover in found:
            typer.echo(printable(f"{size(leftover.n_bytes):>9}  {leftover.path}: {leftover.reason}"))
        counted = f"{len(found):,} things" if len(found) > 1 else "1 thing"
        total = f"{counted}, {size(sum(leftover.n_bytes for leftover in found))}"
        if not found:
            typer.echo("nothing to delete")
        elif yes:
            typer.echo(f"{size(remove(found))} deleted")
        else:
            typer.echo(f"{total}; nothing is deleted without --yes")

    guard(tidy)
