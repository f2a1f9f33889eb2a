"""Copies of remote files: made once, made again when the file is another, removed when there are too many."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import RemoteError
from tamis.remote import RemotePath, cache, local


@pytest.fixture
def asked(told: Any) -> Counter[str]:
    """Requests by kind."""
    counts: Counter[str] = Counter()
    told.before = staticmethod(lambda what, _: counts.update([what]))
    return counts


def test_a_local_path_is_its_own_copy(tmp_path: Path) -> None:
    assert local(tmp_path) is tmp_path


def test_a_file_is_fetched_once_for_each_version(asked: Counter[str], tmp_path: Path) -> None:
    path = RemotePath("told://b/a.npy")
    path.write_bytes(b"one")
    first = local(path)
    assert first.read_bytes() == b"one"
    assert (first.name, first.is_relative_to(tmp_path / "cache")) == ("a.npy", True)
    assert local(path) == first
    assert asked["cat"] == 1
    path.write_bytes(b"three")
    assert local(path).read_bytes() == b"three"
    assert first.read_bytes() == b"one"  # who mapped it goes on with it
    with pytest.raises(FileNotFoundError):
        local(path.with_name("none"))


def test_a_folder_is_fetched_whole(asked: Counter[str]) -> None:
    folder = RemotePath("told://b/model")
    for name in ("config.json", "sub/weights"):
        (folder / name).write_bytes(name.encode())
    copy = local(folder)
    assert {str(p.relative_to(copy)): p.read_text() for p in copy.rglob("*") if p.is_file()} == {
        "config.json": "config.json",
        "sub/weights": "sub/weights",
    }
    assert local(folder) == copy
    assert asked["cat"] == 2
    (folder / "sub" / "weights").write_bytes(b"another")
    assert (local(folder) / "sub" / "weights").read_bytes() == b"another"


def test_a_copy_of_what_was_uploaded_is_not_fetched(asked: Counter[str], tmp_path: Path) -> None:
    source, path = tmp_path / "cache" / "made", RemotePath("told://b/x")
    source.parent.mkdir()
    source.write_bytes(b"large")
    path.upload(source)
    cache.adopt(source, path)
    assert local(path).read_bytes() == b"large"
    assert (asked["cat"], source.exists()) == (0, False)


def test_the_longest_unused_go_when_there_are_too_many(asked: Counter[str], environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TAMIS_CACHE_GB", "0.000003")  # three of a thousand bytes
    copies = []
    for number in range(5):
        path = RemotePath(f"told://b/{number}")
        path.write_bytes(bytes(1000))
        copies.append(local(path))
        os.utime(copies[-1].parent, (time.time() - 1000 + number,) * 2)
        if number == 2:
            local(RemotePath("told://b/0"))  # asked for now
    assert [copy.exists() for copy in copies] == [True, False, False, True, True]


def test_a_folder_that_cannot_be_used(told: Any, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    environment.setenv("TAMIS_CACHE", str(tmp_path / "file"))
    RemotePath("told://b/x").write_bytes(b"x")
    with pytest.raises(RemoteError, match=r"file: copies of remote files cannot be kept there .* set TAMIS_CACHE"):
        local(RemotePath("told://b/x"))


def test_what_a_killed_process_left_is_removed(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "import os; from tamis.remote.cache import scratch; s = scratch(); s.__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", script], check=False)
    [left] = (tmp_path / "cache").iterdir()
    with cache.scratch() as mine, cache.scratch() as other:
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {mine.name, other.name}
    assert not left.exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_results_come_in_order_and_not_all_tasks_are_begun() -> None:
    begun: list[int] = []

    def do(task: int) -> int:
        begun.append(task)
        time.sleep(0.001 * (task % 3))
        return task

    results = cache.ahead(do, iter(range(1000)), n_at_once=4)
    assert [next(results) for _ in range(10)] == list(range(10))
    results.close()
    assert len(begun) <= 14
