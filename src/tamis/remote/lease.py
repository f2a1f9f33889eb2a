"""One at a time: locks of files where there are such, and leases where there are none.

A lease is a file that its holder writes again every few seconds. Who waits reads it, and takes it over when it has
stayed the same for a minute by its own clock; so the clocks of hosts need not agree, and the death of a holder is
noticed. A holder that was cut off for so long may come back while another is at work: a lease saves work done twice,
but what is written under it has to be whole, and checked when read, all the same.
"""

import contextlib
import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tamis.errors import TamisError
from tamis.remote import Place
from tamis.remote.processes import is_dead, machine

BEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0
_LONGEST_BEAT_SECONDS = 5.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def lock(place: Place, seconds: float = -1.0) -> Iterator[None]:
    """Hold the lock of this name while the block runs; `filelock.Timeout` where it takes longer than so many seconds.

    It ends with its process, however that dies. -1: wait for as long as it takes.
    """
    if isinstance(place, Path):
        held = FileLock(place)
        try:
            held.acquire(timeout=seconds)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, Timeout) or getattr(error, "errno", errno.ENOLCK) not in _NO_LOCKS:
                raise
        else:
            try:
                yield
            finally:
                held.release()
            return
        place = place.with_name(place.name + ".lease")  # a mounted folder without locks
    with _lease(place, seconds):
        yield


@contextmanager
def _lease(place: Place, seconds: float) -> Iterator[None]:
    owner = f"{machine()} {os.getpid()} {uuid.uuid4().hex}"
    _take(place, owner, seconds)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(place, owner, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join(_LONGEST_BEAT_SECONDS)  # it may be asking a server that is away
        with contextlib.suppress(TamisError):  # what is not given back is taken over
            if _owner(_read(place)) == owner:
                place.unlink(missing_ok=True)


def _take(place: Place, owner: str, seconds: float) -> None:
    start = last_read = same_since = time.monotonic()
    seen: bytes | None = None
    wait = min(2.0, BEAT_SECONDS / 5)
    while not _create(place, _content(owner, 0)):
        found, now = _read(place), time.monotonic()
        # While the server was away nobody could write: that time says nothing about the holder
        if found != seen or now - last_read > 3 * wait + 1:
            seen, same_since = found, now
        last_read = now
        if found is not None and (now - same_since > DEAD_AFTER_SECONDS or _is_dead(_owner(found))):
            if _read(place) == found:
                place.unlink(missing_ok=True)
            time.sleep(wait / 4)  # whoever else saw the same removes it before anybody makes a new one
            continue
        if 0 <= seconds < now - start + wait:
            raise Timeout(str(place))
        time.sleep(wait)


def _beat(place: Place, owner: str, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(BEAT_SECONDS):
        number += 1
        with contextlib.suppress(OSError, TamisError):  # the next may come through
            if _owner(_read(place)) == owner:
                place.write_bytes(_content(owner, number))


def _content(owner: str, number: int) -> bytes:
    return json.dumps({"owner": owner, "beat": number}).encode()


def _owner(content: bytes | None) -> str | None:
    try:
        return None if content is None else str(json.loads(content)["owner"])
    except (ValueError, TypeError, KeyError):
        return None


def _read(place: Place) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def _create(place: Place, data: bytes) -> bool:
    if not isinstance(place, Path):
        return place.create(data)
    try:
        with place.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _is_dead(owner: str | None) -> bool:
    """Whether a holder was a process of this machine that is gone."""
    of_machine, _, rest = (owner or "?").partition(" ")
    return is_dead(of_machine, rest.partition(" ")[0])
