"""One at a time, on a disk, on an object store, and where a disk has no locks."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from tamis.remote import Place, RemotePath, lease
from tamis.remote.lease import lock


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "DEAD_AFTER_SECONDS", 8.0)


@pytest.fixture(params=["disk", "no locks", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "s3":
        found: RemotePath = request.getfixturevalue("s3")
        return found / "lock"
    if request.param == "no locks":

        class Without:
            def __init__(self, *_: Any) -> None: ...
            def acquire(self, **_: Any) -> None:
                raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lease, "FileLock", Without)
    return tmp_path / "lock"


def test_one_after_the_other(place: Place) -> None:
    inside, most, order = [0], [0], list[int]()

    def work(number: int) -> None:
        with lock(place):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.1)
            order.append(number)
            inside[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], sorted(order)) == (1, [0, 1, 2, 3])


def test_who_does_not_want_to_wait_is_told(place: Place) -> None:
    with lock(place), pytest.raises(Timeout), lock(place, 0.0):
        raise AssertionError("not reached")
    with lock(place, 0.0):
        pass


def test_it_is_held_for_as_long_as_the_holder_lives(place: Place) -> None:
    with lock(place), pytest.raises(Timeout), lock(place, 10.0):  # longer than it takes to be thought dead
        raise AssertionError("not reached")


def test_an_error_lets_go_of_it(place: Place) -> None:
    with pytest.raises(KeyError), lock(place):
        raise KeyError
    with lock(place, 0.0):
        pass


@pytest.mark.parametrize("of", ["this machine", "another machine"])
def test_the_lease_of_a_killed_process_is_taken_over(s3: RemotePath, of: str) -> None:
    elsewhere = "lease.machine = lambda: 'another'; " if of == "another machine" else ""
    script = (
        f"import os; from tamis.remote import RemotePath, lease; {elsewhere}"
        f"held = lease.lock(RemotePath({str(s3 / 'lock')!r})); held.__enter__(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ))
    assert done.returncode == 9
    assert (s3 / "lock").exists()
    if of == "another machine":
        with pytest.raises(Timeout), lock(s3 / "lock", 1.0):
            raise AssertionError("not reached")
    with lock(s3 / "lock"):
        assert (s3 / "lock").exists()
    assert not (s3 / "lock").exists()


def test_a_lease_that_is_no_lease_is_taken_over_after_a_while(s3: RemotePath) -> None:
    (s3 / "lock").write_bytes(b"\0not JSON")
    with lock(s3 / "lock", 60.0):
        assert lease._owner((s3 / "lock").read_bytes()) is not None  # ours
    assert not (s3 / "lock").exists()


def test_while_the_server_is_away_nobody_is_thought_dead(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, now = RemotePath("told://b/lock"), [0.0]
    place.write_bytes(lease._content("another machine 1 x", 1))
    monkeypatch.setattr(lease.time, "monotonic", lambda: now[0])
    reads = [0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def before(what: str, path: str) -> None:
        if what == "cat" and path.endswith("lock"):
            reads[0] += 1
            if reads[0] == 10:
                now[0] += 1000.0  # so long did this answer take
            if reads[0] == 12:
                place_again = lease._content("another machine 1 x", 2)
                told.before = staticmethod(lambda *_: None)
                place.write_bytes(place_again)
                told.before = staticmethod(before)

    monkeypatch.setattr(lease.time, "sleep", sleep)
    told.before = staticmethod(before)
    with pytest.raises(Timeout):
        lease._take(place, "me", 1001.0)
    assert lease._owner(place.read_bytes()) == "another machine 1 x"
