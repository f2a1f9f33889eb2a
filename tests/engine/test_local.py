"""The engine of this process."""

from collections.abc import Callable

import pytest

from tamis.engine import Advance, Engine
from tamis.engine.local import LocalEngine


def test_one_worker_takes_the_tasks_in_order() -> None:
    made: list[str] = []

    def make() -> Callable[[int, Advance], int]:
        made.append("worker")

        def work(task: int, advance: Advance) -> int:
            advance(task)
            return task * task

        return work

    told: list[int] = []
    engine: Engine = LocalEngine()
    assert list(engine.run(make, [3, 1, 2], told.append)) == [9, 1, 4]
    assert told == [3, 1, 2]
    assert made == ["worker"]


def test_no_worker_is_made_for_no_task() -> None:
    def make() -> Callable[[int, Advance], int]:
        pytest.fail("a model was loaded for nothing")

    assert list(LocalEngine().run(make, [], lambda _: None)) == []
