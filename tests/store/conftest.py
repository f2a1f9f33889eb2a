"""Small made-up rows, the same in every process."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tamis.store import FeatureStore
from tamis.store.recipe import with_store_dtype

DIM = 6


class Rows:
    """Rows that are a pure function of the id; ids that start with 0 or 1 are skipped."""

    recipe = {"kind": "test", "dim": DIM, "projection": {"seed": 0}}  # noqa: RUF012

    def ids(self, n: int) -> list[str]:
        return [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(n)]

    def skipped(self, ids: Sequence[str]) -> dict[str, str]:
        return {id_: f"no completion token left in {id_[:4]}" for id_ in ids if id_[0] in "01"}

    def kept(self, ids: Sequence[str]) -> list[str]:
        return [id_ for id_ in ids if id_[0] not in "01"]

    def features(self, ids: Sequence[str]) -> np.ndarray:
        rows = np.array([[int(id_[k], 16) + 1 for k in range(DIM)] for id_ in ids], np.float32).reshape(-1, DIM)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def norm(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([int(id_[:3], 16) for id_ in ids], np.float32)

    def n_tokens(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([int(id_[-2:], 16) for id_ in ids], np.int32)

    def write(self, store: FeatureStore, assigned: Sequence[str]) -> Path:
        kept = self.kept(assigned)[::-1]  # the order of the rows must not matter
        return store.write(
            assigned, self.features(kept), self.norm(kept), self.n_tokens(kept), kept, self.skipped(assigned)
        )

    def fill(self, store: FeatureStore, ids: Sequence[str], rows_per_shard: int = 4) -> list[Path]:
        return [self.write(store, assigned) for assigned in store.plan(ids, rows_per_shard)]


@pytest.fixture(scope="session")
def rows() -> Rows:
    return Rows()


@pytest.fixture
def store(tmp_path: Path, rows: Rows, request: pytest.FixtureRequest) -> FeatureStore:
    """A store of float16 rows, or by indirect parametrization one of another dtype."""
    recipe = with_store_dtype(rows.recipe, getattr(request, "param", "float16"))
    return FeatureStore.open(tmp_path / "store", recipe)


@pytest.fixture
def spawn() -> Callable[..., "subprocess.Popen[str]"]:
    """Start a Python process that has `rows`, `FeatureStore` and the given arguments at hand."""

    def start(script: str, *arguments: object, hash_seed: int = 0) -> "subprocess.Popen[str]":
        setup = (
            "import sys, os; from conftest import Rows; from tamis.store import FeatureStore, files; rows = Rows()\n"
        )
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        return subprocess.Popen(
            [sys.executable, "-c", setup + script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)},
        )

    return start
