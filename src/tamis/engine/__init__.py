"""Where shards are computed: in this process (`local`); a Ray cluster comes beside it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]


@runtime_checkable
class Engine(Protocol):
    """Runs one worker function over many tasks."""

    def run(
        self, make_worker: Callable[[], Callable[[Task, Advance], Result]], tasks: Sequence[Task], advance: Advance
    ) -> Iterator[Result]:
        """Results of worker(task, advance), in the order of tasks.

        make_worker holds what is dear to make, such as a loaded model: it is called once per process, and not at all
        where there are no tasks.
        """
        ...
