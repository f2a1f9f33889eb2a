"""A folder that several hosts have mounted: clocks hours apart, and writers at the same time."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.store import FeatureStore, files
from tamis.store.leftovers import leftovers

HOURS = 3600.0


def shift(path: Path, seconds: float) -> None:
    times = path.stat().st_atime + seconds, path.stat().st_mtime + seconds
    os.utime(path, times)


@pytest.mark.parametrize("hours", [-5, 5])
def test_this_host_s_clock_does_not_say_what_is_dead(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now = time.time
    monkeypatch.setattr(files.time, "time", lambda: now() + hours * HOURS)
    being_written = store.folder / ".shard.0.tmp"
    dead = store.folder / ".shard.1.tmp"
    for path in (being_written, dead):
        path.write_bytes(b"half of a shard")
    shift(dead, -1.2 * HOURS)  # by the file server's clock
    files.remove_dead_temporaries(store.folder)
    assert (being_written.exists(), dead.exists()) == (True, False)
    assert [path.name for path in store.folder.glob(".*")] == [being_written.name]  # the probe of the clock is gone


def test_files_of_a_server_whose_clock_is_hours_off_are_told_apart(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server five hours ahead stamps all files so, the probe too."""
    touch = Path.touch

    def stamped(path: Path, *given: Any, **named: Any) -> None:
        touch(path, *given, **named)
        shift(path, 5 * HOURS)

    being_written, dead = store.folder / ".shard.0.tmp", store.folder / ".shard.1.tmp"
    for path, age in ((being_written, 0.1), (dead, 1.5)):
        path.write_bytes(b"half of a shard")
        shift(path, (5 - age) * HOURS)
    monkeypatch.setattr(Path, "touch", stamped)
    files.remove_dead_temporaries(store.folder)
    assert (being_written.exists(), dead.exists()) == (True, False)


def test_a_temporary_from_the_future_is_not_dead(store: FeatureStore) -> None:
    path = store.folder / ".shard.0.tmp"
    path.write_bytes(b"half of a shard")
    shift(path, 9 * HOURS)
    files.remove_dead_temporaries(store.folder)
    assert path.exists()
    (store.folder.parent / "ws" / "features").mkdir(parents=True)
    store.folder.rename(store.folder.parent / "ws" / "features" / "x")
    assert leftovers(path.parents[1] / "ws") == []


def test_what_another_host_takes_for_dead_while_it_is_written_is_written_again(
    store: FeatureStore, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a writer's clock stamps the files and is hours behind, its own file looks dead to the others."""
    publish, n_lost = files.publish, [0]

    def interfered(temporary: Path, path: Path) -> None:
        if n_lost[0] < 2:
            n_lost[0] += 1
            shift(temporary, -5 * HOURS)
            files.remove_dead_temporaries(store.folder)
            assert not temporary.exists()
        publish(temporary, path)

    monkeypatch.setattr(files, "publish", interfered)
    ids = rows.ids(12)
    rows.fill(store, ids)
    assert n_lost[0] == 2
    assert store.todo(ids) == []
    assert store.verify() == []
    assert list(store.folder.glob(".*")) == []


def test_two_writers_at_once_make_the_same_files_as_one(
    store: FeatureStore, rows: Any, spawn: Callable[..., Any], tmp_path: Path, contents: Callable[..., Any]
) -> None:
    ids = rows.ids(60)
    script = """
for round in range(20):
    files.remove_dead_temporaries(FeatureStore.open(__import__('pathlib').Path(sys.argv[1]), rows.recipe).folder)
    store = FeatureStore.load(__import__('pathlib').Path(sys.argv[1]))
    ids = rows.ids(60)
    for start in range(0, 60, 4):
        rows.write(store, ids[start : start + 4])
"""
    writers = [spawn(script, store.folder) for _ in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    alone = FeatureStore.open(tmp_path / "alone", rows.recipe)
    for start in range(0, 60, 4):
        rows.write(alone, ids[start : start + 4])
    assert contents(store.folder) == contents(alone.folder)
