"""Folders of a remote place, which are read from copies, and written here and then uploaded."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tamis.errors import TamisError
from tamis.remote import Place, local
from tamis.remote.cache import ahead, download, scratch
from tamis.remote.lease import lock
from tamis.remote.path import RemotePath

UNFINISHED = ".unfinished"  # is in a folder while it is being replaced, and stays where that broke off


def upload(source: Path, to: RemotePath, last: str) -> None:
    """Put the files of a local folder in the place of what is there; `last`, the one that makes it whole, at the end.

    Until then there is none of that name, so no reader takes old and new for one.
    """
    names = _stamps(source).keys()
    with _lock(to):
        old = {path.relative(to) for path in to.rglob("*")}
        _change(source, to, names, old - names - {UNFINISHED}, last)


@contextmanager
def edited(folder: Place, last: str, wanted: str = "*") -> Iterator[Path]:
    """A local folder with what is in `folder`, or the files in it of the `wanted` name; when the block ends well, what
    it changed is changed there too, and other files stay as they are.

    Each file appears whole. Where `last` is among them there is none of that name meanwhile, as in `upload`. A local
    folder is that itself. One block at a time. Errors tell of `folder`.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with scratch() as there, _lock(folder):
        here = there / folder.name
        download(folder, here, folder.rglob(wanted))
        before = _stamps(here)
        with _told_of(folder, here):
            yield here
        after = _stamps(here)
        changed = {name for name, stamp in after.items() if before.get(name) != stamp}
        _change(here, folder, changed, before.keys() - after.keys(), last)


@contextmanager
def reading(folder: Place) -> Iterator[Path]:
    """A local folder with what is in `folder`: itself, or a copy that is made once. Errors tell of `folder`."""
    here = local(folder)
    with _told_of(folder, here):
        yield here


def check_writable(folder: RemotePath) -> None:
    """RemoteError unless files can be written beside this folder, which asks for the same rights as in it."""
    probe = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    probe.write_bytes(b"")
    probe.unlink(missing_ok=True)


@contextmanager
def working_folder(folder: Place, wanted: str) -> Iterator[tuple[Path, Callable[[str, str], None]]]:
    """A local folder to work in, and `publish(name, last)` for a folder in it that is whole, by its file `last`; what
    is not there any more is taken away.

    Of a local folder it is that itself, and publishing does nothing. Of a remote one it is a scratch folder, which
    holds at first what was published as `wanted`.
    """
    if isinstance(folder, Path):
        yield folder, lambda *_: None
        return
    remote = folder
    with TemporaryDirectory(prefix="tamis-") as scratch:
        here = Path(scratch)
        download(remote / wanted, here / wanted)

        def publish(name: str, last: str) -> None:
            if (here / name).is_dir():
                upload(here / name, remote / name, last)
            else:
                (remote / name).remove_tree()

        yield here, publish


def _lock(folder: RemotePath) -> AbstractContextManager[None]:
    return lock(folder.with_name(f".{folder.name}.lock"))


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What of each file changes when it is written or replaced."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def _change(source: Path, to: RemotePath, names: Set[str], gone: Iterable[str], last: str) -> None:
    """Upload files and remove those that are gone; if `last` is one of them, so that it tells that all is there."""
    if last in names:
        (to / UNFINISHED).write_bytes(b"")
        (to / last).unlink(missing_ok=True)
    for _ in ahead(lambda name: (to / name).upload(source / name), sorted(names - {last})):
        pass
    for name in gone:
        (to / name).unlink(missing_ok=True)
    if last in names:
        (to / last).upload(source / last)
        (to / UNFINISHED).unlink(missing_ok=True)


@contextmanager
def _told_of(folder: Place, here: Path) -> Iterator[None]:
    """Errors about a copy are raised as errors about what it is of."""
    try:
        yield
    except TamisError as error:
        if str(here) == str(folder):
            raise
        raise type(error)(str(error).replace(str(here), str(folder))) from error
