"""The engine that runs in this process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tamis.engine import Advance, Result, Task


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """One worker, one task after the other."""

    def run(
        self, make_worker: Callable[[], Callable[[Task, Advance], Result]], tasks: Sequence[Task], advance: Advance
    ) -> Iterator[Result]:
        """See `Engine.run`."""
        if tasks:
            worker = make_worker()
            for task in tasks:
                yield worker(task, advance)
