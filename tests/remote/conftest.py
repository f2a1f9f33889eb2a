"""A real S3 server on loopback (moto's, a process of its own), and a file system whose answers a test decides."""

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tamis.remote import attempts, path
from tamis.remote.path import RemotePath

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server that runs as long as the tests."""
    for package in ("s3fs", "moto", "flask"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path_factory.mktemp("s3") / "log").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(600):
                assert server.poll() is None, Path(log.name).read_text()
                try:
                    urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of the user's credentials, a cache of one's own, and connections that end with the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(attempts, "PATIENCE_SECONDS", 20.0)
    path._connected.cache_clear()
    yield monkeypatch
    path._connected.cache_clear()
    if "s3" in fsspec.registry:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def s3(s3_server: str, environment: pytest.MonkeyPatch) -> RemotePath:
    """A new bucket of a real server."""
    for name, value in (("ENDPOINT_URL", s3_server), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        environment.setenv(f"AWS_{name}", value)
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{next(_numbers)}"
    path.file_system(f"s3://{bucket}").mkdir(bucket)
    return RemotePath(f"s3://{bucket}")


class Told(MemoryFileSystem):
    """A file system in memory that first does what `before` says with each request: raise, wait, count."""

    protocol = "told"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    before: Callable[[str, str], None] = staticmethod(lambda *_: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("told://", "memory://")))

    def info(self, path: str, **kwargs: Any) -> Any:
        type(self).before("info", path)
        return super().info(path, **kwargs)

    def ls(self, path: str, **kwargs: Any) -> Any:
        type(self).before("ls", path)
        return super().ls(path, **kwargs)

    def cat_file(self, path: str, **kwargs: Any) -> Any:
        type(self).before("cat", path)
        return super().cat_file(path, **kwargs)

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> Any:
        type(self).before("put", path)
        return super().pipe_file(path, value, **kwargs)


@pytest.fixture
def told(environment: pytest.MonkeyPatch) -> Iterator[type[Told]]:
    """The file system of told://…; set its `before`."""
    fsspec.register_implementation("told", Told, clobber=True)
    environment.setattr(path, "_ONE_PUT", path._ONE_PUT | {"told"})
    Told.store.clear()
    yield Told
    Told.before = staticmethod(lambda *_: None)


@pytest.fixture
def downloaded(tmp_path: Path) -> Callable[[RemotePath], dict[str, bytes]]:
    """Every file below a URL, by its way from there."""
    return lambda folder: {file.relative(folder): file.read_bytes() for file in folder.rglob("*")}
