"""What commands share: options, errors as one sentence and an exit code, columns of text."""

import errno
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tamis.errors import InputError, TamisError, printable

if TYPE_CHECKING:
    from tamis.progress import Progress

ModelName = Annotated[str | None, typer.Option("--model", help="model folder or hub name")]
Template = Annotated[
    str | None, typer.Option("--template", help="'plain' or a jinja file, instead of the tokenizer's own")
]
FieldColumns = Annotated[
    list[str] | None, typer.Option("--field", help="NAME=COLUMN[,COLUMN] where fields have other names")
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="read rows as this format, such as preference (the chosen reply)")
]
RemoteCode = Annotated[
    bool | None, typer.Option("--trust-remote-code", help="run code that comes with the model", show_default=False)
]
ProgressKind = Annotated[str, typer.Option("--progress", help="auto, bar, plain or json")]


def fields(pairs: list[str]) -> dict[str, list[str]]:
    """--field NAME=COLUMN[,COLUMN] … as {name: columns}."""
    found = {}
    for pair in pairs:
        name, equals, columns = pair.partition("=")
        if not (name and equals and columns):
            raise InputError(f"--field: expected NAME=COLUMN[,COLUMN], got {pair!r}")
        found[name] = columns.split(",")
    return found


def arguments(given: Sequence[str] | None) -> tuple[str | None, dict[str, Any]]:
    """The YAML file among a command's arguments, if any, and its KEY=VALUE settings."""
    from tamis.config import parse_override

    path: str | None = None
    overrides: dict[str, Any] = {}
    for argument in given or []:
        if "=" in argument:
            key, value = parse_override(argument)
            overrides[key] = value
        elif path is None and argument.endswith((".yaml", ".yml")):
            path = argument
        else:
            raise InputError(f"expected one YAML file and KEY=VALUE settings, got {argument!r}")
    return path, overrides


def shown(kind: str) -> "Progress":
    """How a run is shown; InputError for a kind of progress there is not."""
    from tamis.progress import make

    if kind not in ("auto", "bar", "plain", "json"):
        raise InputError(f"--progress: expected auto, bar, plain or json, got {kind!r}")
    return make(kind)  # type: ignore[arg-type]


def guard(action: Callable[[], None]) -> None:
    """Run a command: an error that a user can mend becomes one sentence and exit code 2, an interrupt exit code 130."""
    interrupted = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if is_main else None
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        # Native code that calls Python, as readers of tensors do, turns an interrupt into an error of its own
        if interrupted or isinstance(error, KeyboardInterrupt):
            typer.echo("tamis: interrupted; the same command goes on from what is finished", err=True)
            raise typer.Exit(130) from error
        if isinstance(error, TamisError):
            typer.echo(f"tamis: {printable(str(error))}", err=True)
        elif isinstance(error, OSError):
            full = error.errno == errno.ENOSPC
            hint = "; free some, and the same command goes on from what is finished" if full else ""
            where = error.filename or "the workspace or the output folder"
            typer.echo(f"tamis: {where}: {error.strerror or error}{hint}", err=True)
        else:
            raise
        raise typer.Exit(2) from error
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def size(n_bytes: int) -> str:
    """1.5 MB: decimal units."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= divisor:
            return f"{n_bytes / divisor:.1f} {unit}"
    return f"{n_bytes} B"


def aligned(rows: list[tuple[str, ...]], n_left: int) -> list[str]:
    """Lines of columns two spaces apart; all but the first `n_left` end at the right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{'<' if place < n_left else '>'}{widths[place]}}" for place, cell in enumerate(row))
        for row in cells
    ]
