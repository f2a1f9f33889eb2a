"""Paths on any file system that fsspec knows (s3://, gs://, …), with the part of pathlib's interface tamis uses.

Every access is tried again while the server is away: see `tamis.remote.attempts`. Nothing is read from a cache of
listings, because other processes write. Credentials and endpoints come from the environment and the configuration
files of the file system (AWS_…, FSSPEC_CONFIG…), never from settings.
"""

import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from tamis.errors import RemoteError
from tamis.remote.attempts import attempt, said

T = TypeVar("T")

_URL = re.compile(r"(?!hf://)[A-Za-z][A-Za-z0-9+.-]+://")
_ONE_PUT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"}  # a file appears when it is whole
_PACKAGES = {"s3": "tamis[s3]", "s3a": "tamis[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_BLOCK_BYTES = 1 << 23


def is_url(text: str) -> bool:
    """Whether this is a URL, other than a name on the hub."""
    return _URL.match(text) is not None


class Stat(NamedTuple):
    """Bytes, and seconds since 1970 by the server's clock; 0 where it tells no time."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """A URL as a path. Equal URLs are equal paths. It can be pickled: each process connects for itself.

    One that a listing gave knows size and version as they were then, so that asking for them costs no request.
    """

    url: str
    listed: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The last suffix with its dot, or nothing."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes."""
        return self._pure.suffixes

    @property
    def parent(self) -> "RemotePath":
        """What is above; the bucket or host is its own parent."""
        return RemotePath(self.url.rsplit("/", 1)[0]) if len(self._pure.parts) > 1 else self

    def with_name(self, name: str) -> "RemotePath":
        """Another name in the same place."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Another last suffix."""
        return self.with_name(self.stem + suffix)

    def relative(self, folder: "RemotePath") -> str:
        """The way from a folder to here."""
        return self.url.removeprefix(f"{folder.url}/")

    def absolute(self) -> "RemotePath":
        """Itself, as is `resolve()`: a URL means the same everywhere."""
        return self

    resolve = absolute

    # ---- asking ------------------------------------------------------------------------------------------------------

    def info(self) -> Mapping[str, Any]:
        """What the file system tells; FileNotFoundError where nothing is there."""
        return self.listed if self.listed is not None else self._ask(lambda fs, path: dict(fs.info(path)))

    def exists(self) -> bool:
        """Whether a file or folder is there now."""
        return RemotePath(self.url)._kind() is not None

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether anything is below this name."""
        return self._kind() == "directory"

    def is_symlink(self) -> bool:
        """No: there are none."""
        return False

    def stat(self) -> Stat:
        """Size and time of change; FileNotFoundError where nothing is there."""
        info = self.info()
        found = next((info[key] for key in _TIMES if info.get(key)), 0.0)
        return Stat(int(info.get("size") or 0), float(found.timestamp() if hasattr(found, "timestamp") else found))

    lstat = stat

    @property
    def version(self) -> str:
        """What changes when the file is written again, as far as the file system tells."""
        info = self.info()
        known = [info[key] for key in (*_TAGS, *_TIMES) if info.get(key)]
        return f"{info.get('size')} {known[0] if known else ''}"

    def iterdir(self) -> Iterator["RemotePath"]:
        """What is in this folder, in lexical order; nothing where there is none."""
        return iter(self._listing(lambda fs, path: fs.ls(path, detail=True)))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What of this folder a pattern fits, of one part or of several such as `*/checkpoint.json`."""
        if "/" not in pattern:
            return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
        found = self._listing(lambda fs, path: list(fs.glob(f"{path}/{pattern}", detail=True).values()))
        return iter(found)

    def matches(self) -> list["RemotePath"]:
        """The files that this path fits, taken for a pattern: * and ? within a part, ** over several."""
        pattern = self._pure.parts
        fixed = next((n for n, part in enumerate(pattern) if set("*?[") & set(part)), len(pattern))
        base = RemotePath(f"{self.url.partition('://')[0]}://{'/'.join(pattern[:fixed])}")
        found = base._listing(lambda fs, path: list(fs.glob("/".join([path, *pattern[fixed:]]), detail=True).values()))
        return [path for path in found if path.info()["type"] == "file"]

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """The files at any depth below whose name a pattern fits."""
        found = self._listing(lambda fs, path: list(fs.find(path, detail=True).values()))
        return (path for path in found if fnmatch.fnmatchcase(path.name, pattern))

    def _kind(self) -> str | None:
        try:
            return str(self.info()["type"])
        except FileNotFoundError:
            return None

    def _listing(self, ask: Callable[[Any, str], list[dict[str, Any]]]) -> list["RemotePath"]:
        try:
            own, entries = self._ask(lambda fs, path: (path.strip("/"), ask(fs, path)))
        except FileNotFoundError:
            return []
        # Names come back as the file system writes them: without protocol or host, with or without a leading slash
        ways = [(str(entry["name"]).strip("/").removeprefix(own), entry) for entry in entries]
        return sorted(RemotePath(self.url + way, entry) for way, entry in ways if way)

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The content, or the part of it that is there."""
        return self._ask(lambda fs, path: bytes(fs.cat_file(path, start=start, end=stop)))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> "io.BufferedReader":
        """A stream of the content, read in blocks; a block that breaks off is asked for again, so nothing is lost."""
        assert mode == "rb"
        return io.BufferedReader(self.raw(), _BLOCK_BYTES)

    def raw(self) -> "RangeReader":
        """The same without a buffer, for readers that know which parts they want."""
        return RangeReader(self)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there when something is in it."""

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file; it is whole or absent. RemoteError where it cannot be, as without such a bucket."""
        self._written(lambda fs, path: fs.pipe_file(path, data))

    def upload(self, source: Path) -> None:
        """Write the content of a local file; it is whole or absent."""
        self._written(lambda fs, path: fs.put_file(str(source), path))

    def create(self, data: bytes) -> bool:
        """Write the file unless one is there; whether it was written. Two may both be told so where the file system
        has no such request.
        """
        try:
            self._written(lambda fs, path: _create(fs, path, data), one_put=True)
        except FileExistsError:
            try:
                return self.read_bytes() == data  # a first attempt may have come through without an answer
            except FileNotFoundError:
                return False
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            self._ask(lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove everything below this name, and what has it."""
        try:
            self._ask(lambda fs, path: fs.rm(path, recursive=True))
        except FileNotFoundError:
            return

    def replace(self, target: "RemotePath") -> "RemotePath":
        """Give the file another name in the same place; on an object store it is copied."""
        self._ask(lambda fs, path: fs.cp_file(path, fs._strip_protocol(target.url)))
        self.unlink(missing_ok=True)
        return target

    def _written(self, do: Callable[[Any, str], object], one_put: bool = False) -> None:
        protocol = self.url.partition("://")[0]

        def write(fs: Any, path: str) -> None:
            if protocol in _ONE_PUT or one_put:
                do(fs, path)
                return
            folder, _, name = path.rpartition("/")  # a server with folders, such as sftp
            fs.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{name}.{os.urandom(8).hex()}.tmp"
            do(fs, temporary)
            fs.mv(temporary, path)

        try:
            self._ask(write)
        except FileNotFoundError as error:
            raise RemoteError(
                f"{self.url}: cannot be written ({error.strerror}); make the bucket or folder, or check its name"
            ) from error

    def _ask(self, do: Callable[[Any, str], T]) -> T:
        def once() -> T:
            fs = file_system(self.url)
            fs.invalidate_cache()
            return do(fs, fs._strip_protocol(self.url))

        return attempt(self.url, once)


_TAGS = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class RangeReader(io.RawIOBase):
    """A file as a seekable stream of requests for parts. RemoteError when it changes while it is read."""

    mode = "rb"

    def __init__(self, path: RemotePath) -> None:
        self.name = path.url
        fresh = RemotePath(path.url)
        self._path, self._version, self._size = path, fresh.version, fresh.stat().st_size
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go there, and tell where that is."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the file goes."""
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            self._check()
            return 0
        data = self._path.read_bytes(self._position, stop)
        if len(data) != stop - self._position:
            raise self._changed()
        buffer[: len(data)] = data
        self._position = stop
        return len(data)

    def _check(self) -> None:
        if RemotePath(self._path.url).version != self._version:
            raise self._changed()

    def _changed(self) -> RemoteError:
        return RemoteError(
            f"{self._path}: the file changed while it was read; run the command again when it is at rest"
        )


def file_system(url: str) -> Any:
    """The fsspec file system of a URL; RemoteError where there is none, or the package is missing that it needs."""
    protocol, _, rest = url.partition("://")
    root = f"{protocol}://{rest.partition('/')[0]}"
    shared = _connected(root, os.getpid())
    return shared if shared.async_impl else _connect(root)  # of others, fsspec keeps one a thread


@cache
def _connected(root: str, _pid: int) -> Any:
    """One connection for all threads; a forked process makes its own."""
    return _connect(root)


def _connect(root: str) -> Any:
    from fsspec.core import url_to_fs

    protocol = root.partition("://")[0]
    try:
        return url_to_fs(root)[0]
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        what = f"pip install '{package}'" if package else said(error)
        raise RemoteError(f"{root}: {protocol}:// needs a package that is not installed: {what}") from error
    except ValueError as error:
        raise RemoteError(
            f"{root}: expected a local path, or a URL of a kind that fsspec knows, such as s3:// ({said(error)})"
        ) from error


def _create(fs: Any, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data, mode="create")
    except (TypeError, NotImplementedError, ValueError):  # no such request here
        if fs.exists(path):
            raise FileExistsError(path) from None
        fs.pipe_file(path, data)
