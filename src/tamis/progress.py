"""How a run is shown, on stderr alone: bars on a terminal, plain lines elsewhere, or JSON events for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from rich.console import Console
from rich.markup import escape

from tamis.errors import printable

Kind = Literal["auto", "bar", "plain", "json"]
Advance = Callable[[int], None]

_PLAIN_SECONDS = 15.0  # between two lines of one stage


def _nothing(_: int | str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told what a worker does: tokens done, and sentences for the user."""

    advance: Advance = _nothing
    note: Callable[[str], None] = _nothing


class Current:
    """Passes on what is told to the stage that is under way: several stages may be one run of an engine."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.now: Advance = _nothing
        self.note = note

    def advance(self, n_tokens: int) -> None:
        """Tokens done in the stage under way."""
        self.now(n_tokens)


@runtime_checkable
class Progress(Protocol):
    """How a run tells what it does: the command line draws bars, a library call stays silent."""

    def stage(self, name: str, n_tokens: int) -> AbstractContextManager[Advance]:
        """A stage of so many tokens (0: not known); the function it yields is told of every few that are done."""
        ...

    def note(self, text: str) -> None:
        """One sentence for the user."""
        ...


class Silent:
    """Progress that says nothing."""

    def stage(self, name: str, n_tokens: int) -> AbstractContextManager[Advance]:
        """See Progress."""
        return nullcontext(lambda _: None)

    def note(self, text: str) -> None:
        """See Progress."""


class Bars:
    """A rich bar per stage; time left is weighted by tokens."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Advance]:
        """See Progress."""
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=n_tokens or None, speed="")

            def advance(tokens: int) -> None:
                progress.advance(task, tokens)
                speed = progress.tasks[0].speed
                if speed:
                    progress.update(task, speed=f"{speed:,.0f} tokens/s")

            yield advance
            progress.update(task, total=1, completed=1) if not n_tokens else progress.update(task, completed=n_tokens)

    def note(self, text: str) -> None:
        """See Progress."""
        self._console.print(escape(printable(text)), highlight=False)


class Lines:
    """Plain lines, or one JSON object a line, at most one a stage every few seconds."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json

    def _say(self, text: str, event: dict[str, Any]) -> None:
        sys.stderr.write((json.dumps(event, ensure_ascii=False) if self._json else text) + "\n")
        sys.stderr.flush()

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Advance]:
        """See Progress."""
        start = last = time.monotonic()
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done, last
            done += tokens
            now = time.monotonic()
            if now - last >= _PLAIN_SECONDS and n_tokens and done:
                last = now
                left = (now - start) * max(0, n_tokens - done) / done
                self._say(
                    f"{name}: {min(1, done / n_tokens):.0%}, {done / (now - start):,.0f} tokens/s, {_clock(left)} left",
                    {
                        "event": "progress",
                        "stage": name,
                        "tokens": done,
                        "of": n_tokens,
                        "seconds_left": round(left, 1),
                    },
                )

        self._say(f"{name} …", {"event": "start", "stage": name, "tokens": n_tokens})
        yield advance
        seconds = time.monotonic() - start
        self._say(f"{name}: done in {_clock(seconds)}", {"event": "end", "stage": name, "seconds": round(seconds, 3)})

    def note(self, text: str) -> None:
        """See Progress."""
        self._say(printable(text), {"event": "note", "text": text})


def make(kind: Kind) -> Bars | Lines:
    """`auto`: bars where stderr is a terminal, else plain lines."""
    if kind == "bar" or (kind == "auto" and sys.stderr.isatty()):
        return Bars(Console(stderr=True))
    return Lines(as_json=kind == "json")


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02} min"
