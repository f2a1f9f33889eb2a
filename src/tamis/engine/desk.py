"""What passes between a driver and its workers beside Ray Data's tickets: tasks, when they are asked for, and news.

The desk is an actor beside the driver. Workers ask it for tasks and tell it what they do; the clerk, a thread of the
driver, answers. The ray module is given to whoever needs it.
"""

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tamis.errors import EngineError
from tamis.progress import Told

TRIES = 3  # at a task that fails for a reason that is not known, or costs its worker's life
_TELL_SECONDS = 0.5


class Telling:
    """Counts what is done of one task, and tells the desk now and then."""

    def __init__(self, desk: Any, number: int) -> None:
        self._desk, self._number, self._last = desk, number, time.monotonic()
        self.done = 0
        self.notes: list[str] = []

    def advance(self, n_tokens: int) -> None:
        """See Told."""
        self.done += n_tokens
        now = time.monotonic()
        if now - self._last >= _TELL_SECONDS:
            self._last = now
            self._desk.tell.remote(self._number, self.done, self.notes)
            self.notes = []

    def note(self, text: str) -> None:
        """See Told."""
        self.notes.append(text)
        self._last = 0.0
        self.advance(0)


class Clerk:
    """Answers the desk from a thread of the driver: hands out tasks, and passes on what workers tell."""

    def __init__(self, ray: Any, desk: Any, tasks: Sequence[Any], told: Told) -> None:
        self._ray, self._desk, self._tasks, self._told = ray, desk, tasks, told
        self._done: dict[int, int] = {}
        self._asked: Counter[int] = Counter()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._answer, daemon=True, name="tamis-ray-clerk")
        self._thread.start()

    def tell(self, number: int, done: int, notes: Sequence[str]) -> None:
        """What is done of a task by now; what an earlier attempt at it had told does not count again."""
        with self._lock:
            if (more := done - self._done.get(number, 0)) > 0:
                self._done[number] = done
                self._told.advance(more)
            for note in notes:
                self._told.note(note)

    def check(self) -> None:
        """Raise what kept tasks from being made."""
        if self._failure is not None:
            raise self._failure

    def _task(self, number: int) -> Any:
        """A reference to a task, or the error that a worker is to get, and with it the one who waits for results."""
        self._asked[number] += 1
        if self._asked[number] > TRIES:
            return EngineError(
                f"task {number} was begun {TRIES} times and cost each worker its life, perhaps for want of memory: "
                "lower represent.batch_tokens or engine.workers, and the same command goes on from what is finished"
            )
        try:
            return self._ray.put(self._tasks[number])
        except Exception as error:  # noqa: BLE001
            return error

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(timeout=5)

    def _answer(self) -> None:
        while not self._over.is_set():
            try:
                wanted, said = self._ray.get(self._desk.news.remote(_TELL_SECONDS))
            except self._ray.exceptions.RayError as error:
                self._failure = None if self._over.is_set() else error
                return
            for number, asking in wanted:
                self._desk.give.remote(asking, [self._task(number)])
            for number, done, notes in said:
                self.tell(number, done, notes)


# ---- beside the driver ---------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """Where workers ask for tasks and say what they do, and the clerk answers."""

    wanted: list[tuple[int, str]] = field(default_factory=list)
    said: list[tuple[int, int, list[str]]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    news_there: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Condition = field(default_factory=asyncio.Condition)

    @staticmethod
    @contextmanager
    def opened(ray: Any, tasks: Sequence[Any], told: Told) -> Iterator[tuple[Any, Clerk]]:
        """A desk on the driver's own host, and the clerk who answers it."""
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        options = {"num_cpus": 0, "max_concurrency": 10_000, "scheduling_strategy": here}
        desk = ray.remote(**options)(Desk).remote()
        clerk = Clerk(ray, desk, tasks, told)
        try:
            yield desk, clerk
        finally:
            clerk.close()
            ray.kill(desk)

    async def ask(self, number: int) -> Any:
        """A task, as a list of one reference to it, or of the error that kept it from being made."""
        asking = uuid.uuid4().hex  # its own: a worker that was lost may have asked for the same task
        self.wanted.append((number, asking))
        self.news_there.set()
        async with self.answered:
            await self.answered.wait_for(lambda: asking in self.answers)
            return self.answers.pop(asking)

    async def give(self, asking: str, answer: Any) -> None:
        """Answer a worker that asked."""
        async with self.answered:
            self.answers[asking] = answer
            self.answered.notify_all()

    async def tell(self, number: int, done: int, notes: list[str]) -> None:
        """What is done of a task in this attempt, and sentences."""
        self.said.append((number, done, notes))
        self.news_there.set()

    async def news(self, seconds: float) -> tuple[list[tuple[int, str]], list[tuple[int, int, list[str]]]]:
        """Tasks asked for and things told since the last call; waits for some for so long."""
        try:
            await asyncio.wait_for(self.news_there.wait(), seconds)
        except TimeoutError:
            return [], []
        self.news_there.clear()
        wanted, self.wanted = self.wanted, []
        said, self.said = self.said, []
        return wanted, said
