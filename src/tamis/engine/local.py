"""The engine that runs in this process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tamis.engine import Result, Task, use_threads
from tamis.progress import Told


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """One worker, one task after the other; with so many threads, or as many as the libraries take by themselves."""

    threads: int | None = None

    def run(
        self, make_worker: Callable[[], Callable[[Task, Told], Result]], tasks: Sequence[Task], told: Told
    ) -> Iterator[Result]:
        """See `Engine.run`."""
        if tasks:
            use_threads(self.threads)
            worker = make_worker()
            for task in tasks:
                yield worker(task, told)
