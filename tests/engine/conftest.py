"""A Ray cluster of two CPUs for as long as a file of tests runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tamis.engine.ray import RayEngine


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[RayEngine]:
    ray = pytest.importorskip("ray", reason="the Ray engine is an extra")
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # where workers find what tests define
    settings = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 1 << 28}
    ray.init("local", num_cpus=2, runtime_env=here, **settings)  # and not a cluster that runs on this host already
    yield RayEngine(workers=(2, 2), threads=1, device="cpu")
    ray.shutdown()
