"""Folders of a remote place, which are written here and then uploaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tamis.remote import Place
from tamis.remote.cache import ahead, download
from tamis.remote.lease import lock
from tamis.remote.path import RemotePath

UNFINISHED = ".unfinished"  # is in a folder while it is being replaced, and stays where that broke off


def upload(source: Path, to: RemotePath, last: str) -> None:
    """Put the files of a local folder in the place of what is there; `last`, the one that makes it whole, at the end.

    Until then there is none of that name, so no reader takes old and new for one.
    """
    names = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    marker = to / UNFINISHED
    with lock(to.with_name(f".{to.name}.lock")):
        old = [path for path in to.rglob("*") if path.relative(to) not in (last, UNFINISHED)]
        marker.write_bytes(b"")
        (to / last).unlink(missing_ok=True)
        for _ in ahead(lambda name: (to / name).upload(source / name), sorted(names - {last})):
            pass
        for path in old:
            if path.relative(to) not in names:
                path.unlink(missing_ok=True)
        (to / last).upload(source / last)
        marker.unlink(missing_ok=True)


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
