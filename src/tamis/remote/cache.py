"""Copies of remote files in a folder of this machine: what is mapped into memory has to lie on a disk.

They are in $TAMIS_CACHE, or the user's cache folder, each under a digest of its URL and version, so that a file that
was written again is fetched again. Beyond $TAMIS_CACHE_GB (default: half of what the disk could give) those that
nobody asked for the longest are removed; a mapped file lives on until it is let go of.
"""

import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tamis.errors import RemoteError
from tamis.remote import Place
from tamis.remote.path import RemotePath
from tamis.remote.processes import is_dead, machine

T = TypeVar("T")
R = TypeVar("R")

N_AT_ONCE = 16  # requests
_SCRATCH = ".scratch@"
_GRACE_SECONDS = 300.0  # a copy that was just asked for is about to be opened
_BLOCK_BYTES = 1 << 24
_lock = threading.Lock()
_used: dict[Path, int] = {}  # bytes of each cache folder; other processes add to it too, so it is a guess


def local(place: RemotePath) -> Path:
    """A copy of a file or folder, made once; FileNotFoundError where nothing is there."""
    known = RemotePath(place.url, place.info())
    if known.info()["type"] == "directory":
        files = list(place.rglob("*"))
        key = _key("".join(f"{file.url} {file.version}\n" for file in files))
        return _made(key, place.name, lambda target: download(place, target, files))
    return _made(_key(f"{known.url} {known.version}"), place.name, lambda target: _fetch(known, target))


def kept(place: RemotePath, kind: str, make: Callable[[], bytes]) -> bytes:
    """What is made of this version of a file, made once."""
    made = _made(_key(f"{place.url} {place.version}"), kind, lambda target: target.write_bytes(make()))
    return made.read_bytes()


def adopt(source: Path, place: RemotePath) -> None:
    """Keep a local file as the copy of what was uploaded from it."""
    fresh = RemotePath(place.url)
    _made(_key(f"{fresh.url} {fresh.version}"), fresh.name, lambda target: source.replace(target))


def download(place: RemotePath, folder: Path, files: Iterable[RemotePath] | None = None) -> None:
    """Every file below a URL into a local folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(file: RemotePath) -> None:
        target = folder / file.relative(place)
        if not Path(os.path.normpath(target)).is_relative_to(folder):  # keys such as a//b and a/../../b are possible
            raise RemoteError(f"{file}: expected a file below {place}; give this one another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, target)

    for _ in ahead(fetch, place.rglob("*") if files is None else files):
        pass


def ahead(do: Callable[[T], R], tasks: Iterable[T], n_at_once: int = N_AT_ONCE) -> Iterator[R]:
    """`map`, of which the next few are already under way in threads."""
    tasks = iter(tasks)
    with ThreadPoolExecutor(n_at_once) as threads:
        running: list[Future[R]] = [threads.submit(do, task) for task in islice(tasks, n_at_once)]
        try:
            while running:
                result = running.pop(0).result()
                running += [threads.submit(do, task) for task in islice(tasks, 1)]
                yield result
        finally:
            threads.shutdown(cancel_futures=True)


@contextmanager
def fetched(*places: Place) -> Iterator[Path]:
    """A folder that holds these files and folders, as they are now, by their names; local ones lie in one folder."""
    if isinstance(places[0], Path):
        yield places[0].parent
        return
    with scratch() as folder:
        for place in places:
            assert isinstance(place, RemotePath)
            if place.is_dir():
                download(place, folder / place.name)
            else:
                _fetch(RemotePath(place.url), folder / place.name)
        yield folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder beside the copies, for what is large and becomes one; those of killed processes are removed."""
    where = folder()
    with _kept_there(where):
        where.mkdir(parents=True, exist_ok=True)
        for entry in where.glob(f"{_SCRATCH}*"):
            of_machine, _, number = entry.name.removeprefix(_SCRATCH).rpartition("@")[0].rpartition("@")
            if is_dead(of_machine, number):
                shutil.rmtree(entry, ignore_errors=True)
        made = where / f"{_SCRATCH}{machine()}@{os.getpid()}@{uuid.uuid4().hex}"
        made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def folder() -> Path:
    """Where copies are kept."""
    given = os.environ.get("TAMIS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tamis"


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _made(key: str, name: str, make: Callable[[Path], object]) -> Path:
    """The copy under this key and name, made where it is not there; a name that ends in .tmp is not one."""
    where = folder()
    target = where / key / name
    with _kept_there(where):
        if target.exists():
            os.utime(target.parent)  # asked for now
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            make(temporary)
            _make_room(where, sum(part.stat().st_size for part in _parts(temporary)))
            target.parent.mkdir(exist_ok=True)
            if not target.exists():  # another process may have been faster
                temporary.rename(target)
        finally:
            _remove(temporary)
    return target


@contextmanager
def _kept_there(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise RemoteError(
            f"{where}: copies of remote files cannot be kept there ({error.strerror}); free some space, or set "
            "TAMIS_CACHE to another folder"
        ) from error


def _fetch(file: RemotePath, target: Path) -> None:
    """Block by block: one that breaks off is asked for again, not the whole file."""
    n_bytes = file.stat().st_size
    with target.open("wb") as out:
        for start in range(0, n_bytes, _BLOCK_BYTES):
            out.write(file.read_bytes(start, min(start + _BLOCK_BYTES, n_bytes)))
        if out.tell() != n_bytes:
            raise RemoteError(
                f"{file}: expected {n_bytes:,} bytes, got {out.tell():,}: it changed meanwhile; try again"
            )


def _make_room(where: Path, n_bytes: int) -> None:
    with _lock:
        _used[where] = _used.get(where, 0) + n_bytes
        given = os.environ.get("TAMIS_CACHE_GB")
        if given is None and shutil.disk_usage(where).free > 2 * _used[where]:
            return
        entries = sorted((entry.stat().st_mtime, entry) for entry in where.iterdir() if entry.name[0] != ".")
        sizes = [sum(part.stat().st_size for part in _parts(entry)) for _, entry in entries]
        used = sum(sizes)
        limit = float(given) * 1e9 if given else (used + shutil.disk_usage(where).free) / 2
        for (changed, entry), size in zip(entries, sizes, strict=True):
            if used <= limit or changed > time.time() - _GRACE_SECONDS:
                break
            _remove(entry)
            used -= size
        _used[where] = used


def _parts(path: Path) -> list[Path]:
    return [part for part in (path.rglob("*") if path.is_dir() else [path]) if part.is_file()]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
