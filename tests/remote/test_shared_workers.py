"""Workers of a Ray cluster whose workspace is on an object store: the same files as one process makes on a disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.pipeline import select
from tamis.remote import RemotePath

Contents = Callable[..., dict[str, bytes]]


@pytest.fixture
def cluster(s3: RemotePath) -> Iterator[RemotePath]:
    """A bucket, and a cluster of two CPUs whose workers inherit the address and the credentials of its server."""
    ray = pytest.importorskip("ray", reason="the Ray engine is an extra")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 28)
    yield s3
    ray.shutdown()


def made(files: dict[str, bytes]) -> dict[str, bytes]:
    """What workers make: features and similarities."""
    kept = {name: data for name, data in files.items() if name.startswith(("features", "similarity"))}
    return {name: data for name, data in kept.items() if not name.endswith("lock")}


def test_workers_write_the_stores_of_one_process(
    cluster: RemotePath, settings: dict[str, Any], pool_file: Path, finished: Path, contents: Contents,
    downloaded: Contents,
) -> None:  # fmt: skip
    (cluster / "pool.jsonl").upload(pool_file)
    places = {"data.pool": f"{cluster}/pool.jsonl", "workspace": f"{cluster}/ws", "out": f"{cluster}/out"}
    select(load_config(None, {**settings, **places, "engine.kind": "ray", "engine.workers": 2}))
    expected = made(contents(finished / "ws"))
    assert len(expected) > 10
    assert made(downloaded(cluster / "ws")) == expected
    assert (cluster / "out" / "selected.jsonl").read_bytes() == (finished / "out" / "selected.jsonl").read_bytes()
