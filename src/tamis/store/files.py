"""How the store lists, writes and renames files, on a disk or on an object store (`shards` alone opens them)."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamis.remote import Place, RemotePath

SHARD_SUFFIX = ".safetensors"
DAMAGED_SUFFIX = ".damaged"
SIMILARITY_IDS_SUFFIX = ".ids"  # after the name of a matrix: its ids, see `tamis.similarity`
_DEAD_AFTER_SECONDS = 3600.0
_TRIES = 10


def list_shards(folder: Place) -> list[Place]:
    """All shard files of a folder, in lexical order. Temporary and damaged files have other suffixes."""
    found: Iterator[Any] = folder.glob(f"*{SHARD_SUFFIX}")
    return sorted(found)


def temporary_beside(path: Path) -> Path:
    """A hidden name of its own in the same folder, so that the later rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def temporary_for(path: Place) -> Iterator[Path]:
    """The name of a local file to write, which `publish` gives its final name; what is left of it is removed."""
    if isinstance(path, RemotePath):
        from tamis.remote.cache import scratch

        with scratch() as folder:
            yield folder / path.name
        return
    temporary = temporary_beside(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Place) -> None:
    """Give a finished local file its final name. After a crash the file is whole or absent."""
    if isinstance(path, RemotePath):
        from tamis.remote.cache import adopt

        path.upload(temporary)
        adopt(temporary, path)
        return
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def put(path: Place, data: bytes) -> None:
    """Write a whole file at once, on an object store by one request; a file already there is replaced.

    A temporary file that somebody else took for dead, because his clock or the file server's is wrong by hours, is
    written again: what is lost is a moment.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    for attempt in range(_TRIES):
        with temporary_for(path) as temporary:
            temporary.write_bytes(data)
            try:
                publish(temporary, path)
            except FileNotFoundError:
                if attempt == _TRIES - 1 or not path.parent.is_dir():
                    raise
            else:
                return


def set_aside(path: Place) -> Place:
    """Rename a file to `*.damaged`, which no reader takes for a shard."""
    name = path.name + DAMAGED_SUFFIX
    if isinstance(path, RemotePath):
        return path.replace(path.with_name(name))
    damaged = path.replace(path.with_name(name))
    _sync(path.parent)
    return damaged


def remove_dead_temporaries(folder: Place) -> None:
    """Remove what killed writers left behind; on an object store they leave nothing.

    Age decides, because a process id says nothing on another host or in another container: a temporary file lives for
    one write of bytes already in memory, so one that nobody touched for an hour has lost its writer.
    """
    if isinstance(folder, RemotePath):
        return
    found = [path for path in folder.glob(".*.tmp") if path.is_file()]
    now = clock(folder) if found else 0.0
    for path in found:
        with contextlib.suppress(FileNotFoundError):  # another writer may tidy up at the same time
            if is_idle(path, now):
                path.unlink()


def clock(folder: Place) -> float:
    """The time by the clock that gives files in this folder their times: a file server's may be hours from ours.

    Where nothing can be written, it is this host's: nothing can be removed there either.
    """
    probe = folder / f".clock.{uuid.uuid4().hex}.tmp"
    if isinstance(probe, RemotePath):
        probe.write_bytes(b"now")
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        return now
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def is_idle(path: Place, now: float) -> bool:
    """Whether nobody wrote to this file, or to anything in this folder, for an hour before `now`, which is `clock`'s;
    symlinks are not followed.
    """
    dead_before = now - _DEAD_AFTER_SECONDS
    try:
        return all(part.lstat().st_mtime < dead_before for part in _parts(path))
    except FileNotFoundError:  # somebody is at work there
        return False


def size(path: Place) -> int:
    """Bytes of a file, or of all files in a folder; symlinks are not followed."""
    if isinstance(path, RemotePath):
        return sum(part.stat().st_size for part in _parts(path))
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(part.lstat().st_size for part in path.rglob("*") if part.is_symlink() or not part.is_dir())


def remove(path: Place) -> None:
    """Remove a file, or a folder, which is gone at once under its name (but on an object store file by file); a symlink
    is removed itself.
    """
    if isinstance(path, RemotePath):
        path.remove_tree()
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not path.name.endswith(".tmp"):
        path = path.rename(temporary_beside(path))
    shutil.rmtree(path)


def _parts(path: Place) -> list[Path] | list[RemotePath]:
    """A folder with all that is in it, or a file; of an object store the files alone."""
    if isinstance(path, RemotePath):
        return list(path.rglob("*")) if path.is_dir() else [path]
    return [path, *(path.rglob("*") if path.is_dir() else ())]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
