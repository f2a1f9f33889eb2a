"""How the store lists, writes and renames files (`shards` alone opens them): where object stores can join."""

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

SHARD_SUFFIX = ".safetensors"
DAMAGED_SUFFIX = ".damaged"
SIMILARITY_IDS_SUFFIX = ".ids.json"  # after the name of a matrix: its ids, see `tamis.similarity`
_DEAD_AFTER_SECONDS = 3600.0


def list_shards(folder: Path) -> list[Path]:
    """All shard files of a folder, in lexical order. Temporary and damaged files have other suffixes."""
    return sorted(folder.glob(f"*{SHARD_SUFFIX}"))


def temporary_beside(path: Path) -> Path:
    """A hidden name of its own in the same folder, so that the later rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def publish(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its final name. After a crash the file is whole or absent."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def put(path: Path, data: bytes) -> None:
    """Write a whole file at once; a file already there is replaced."""
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a file to `*.damaged`, which no reader takes for a shard."""
    damaged = path.with_name(path.name + DAMAGED_SUFFIX)
    path.replace(damaged)
    _sync(path.parent)
    return damaged


def remove_dead_temporaries(folder: Path) -> None:
    """Remove what killed writers left behind.

    Age decides, because a process id says nothing on another host or in another container: a temporary file lives for
    one write of bytes already in memory, so one that nobody touched for an hour has lost its writer.
    """
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another writer may tidy up at the same time
            if path.is_file() and is_idle(path):
                path.unlink()


def is_idle(path: Path) -> bool:
    """Whether nobody wrote to this file, or to anything in this folder, for an hour; symlinks are not followed."""
    dead_before = time.time() - _DEAD_AFTER_SECONDS
    try:
        return all(part.lstat().st_mtime < dead_before for part in [path, *(path.rglob("*") if path.is_dir() else ())])
    except FileNotFoundError:  # somebody is at work there
        return False


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; symlinks are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(part.lstat().st_size for part in path.rglob("*") if part.is_symlink() or not part.is_dir())


def remove(path: Path) -> None:
    """Remove a file, or a folder, which is gone at once under its name; a symlink is removed itself."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not path.name.endswith(".tmp"):
        path = path.rename(temporary_beside(path))
    shutil.rmtree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
