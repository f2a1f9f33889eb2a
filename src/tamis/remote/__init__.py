"""Places: local paths, and URLs of any file system that fsspec knows. Nothing of fsspec is imported without a URL."""

from pathlib import Path

from tamis.errors import InputError
from tamis.remote.path import RemotePath, is_url
from tamis.settings import home

Place = Path | RemotePath

__all__ = ["Place", "RemotePath", "is_url", "local", "local_only", "locate"]


def locate(text: str | Place) -> Place:
    """What a text means: a URL, or a local path, a leading ~ as the shell has it."""
    if not isinstance(text, str):
        return text
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if is_url(text):
        return RemotePath(text)
    return home(text)


def local(where: Place) -> Path:
    """A local path with the content of a file or folder: itself, or a copy that is made once (`tamis.remote.cache`)."""
    if isinstance(where, Path):
        return where
    from tamis.remote import cache

    return cache.local(where)


def local_only(text: str | Path, what: str) -> Path:
    """The local path that a text means; InputError for a URL, where `what` cannot be one."""
    found = locate(str(text))
    if isinstance(found, RemotePath):
        raise InputError(f"{found}: expected a local folder for {what}, which is not read or written over a network")
    return found
