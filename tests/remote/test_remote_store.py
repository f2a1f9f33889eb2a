"""Feature rows on an object store: what is asked of the server, and what a failing one leaves."""

import errno
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tamis.errors import RemoteError
from tamis.remote import RemotePath, attempts
from tamis.store import FeatureStore, StoredRows
from tamis.store.quantize import STORE_DTYPES
from tamis.store.recipe import with_store_dtype

DIM, N_ROWS, PER_SHARD = 512, 400, 50


def ids_of(n: int) -> list[str]:
    return [f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}" for number in range(1, n + 1)]


def fill(store: FeatureStore, ids: list[str]) -> None:
    """Rows of unit length that are a function of the id; every tenth is skipped."""
    for assigned in store.plan(ids, PER_SHARD):
        kept = [id_ for id_ in assigned if int(id_, 16) % 10]
        rows = np.stack([np.random.default_rng(int(id_[:8], 16)).standard_normal(DIM) for id_ in kept])
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        numbers = np.array([int(id_[-3:], 16) for id_ in kept])
        why = {id_: "skipped" for id_ in assigned if id_ not in kept}
        store.write(list(assigned), rows, numbers.astype(np.float32), numbers.astype(np.int32), kept, why)


@pytest.fixture
def asked(told: Any) -> Counter[str]:
    """Requests by kind."""
    counts: Counter[str] = Counter()
    told.before = staticmethod(lambda what, _: counts.update([what]))
    return counts


@pytest.fixture
def folder(told: Any) -> RemotePath:
    return RemotePath("told://bucket/features/x")


RECIPE = {"kind": "test", "dim": DIM}


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_it_answers_as_a_local_one(folder: RemotePath, tmp_path: Any, dtype: Any) -> None:
    recipe, ids = with_store_dtype(RECIPE, dtype), ids_of(N_ROWS)
    stores = [FeatureStore.open(place, recipe) for place in (folder, tmp_path / "x")]
    for store in stores:
        fill(store, ids[: N_ROWS // 2])
        fill(store, ids)
    remote, local = stores
    assert {path.name: path.read_bytes() for path in remote.folder.glob("*.safetensors")} == {
        path.name: path.read_bytes() for path in local.folder.glob("*.safetensors")
    }
    kept = [id_ for id_ in ids if int(id_, 16) % 10]
    assert remote.held() == local.held() == set(ids)
    assert remote.skipped() == local.skipped()
    assert remote.todo([*ids, "0" * 32]) == ["0" * 32]
    assert np.array_equal(remote.rows(kept), local.rows(kept))
    assert np.array_equal(remote.rows(kept, normalized=False), local.rows(kept, normalized=False))
    assert np.array_equal(remote.norms(kept), local.norms(kept))
    assert np.array_equal(remote.n_tokens(kept), local.n_tokens(kept))
    some = np.array([5, 1, 150])
    assert np.array_equal(StoredRows([remote], [1.0], kept)[some], StoredRows([local], [1.0], kept)[some])
    for (here, values), (there, others) in zip(local.shards(kept), remote.shards(kept), strict=True):
        assert np.array_equal(here, there)
        assert np.array_equal(values.to_float32(), others.to_float32())
    assert remote.verify() == []


def test_ids_are_asked_for_without_features_and_once(
    folder: RemotePath, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ids = FeatureStore.open(folder, RECIPE), ids_of(N_ROWS)
    fill(store, ids)
    size = next(folder.glob("*.safetensors")).stat().st_size
    monkeypatch.setattr("tamis.store.remote_shards._FIRST_BYTES", 4096)
    n_bytes, cat_file = [0], told.cat_file

    def counted(fs: Any, path: str, **named: Any) -> bytes:
        data: bytes = cat_file(fs, path, **named)
        n_bytes[0] += len(data)
        return data

    monkeypatch.setattr(told, "cat_file", counted)
    assert store.todo(ids) == []
    n_shards = N_ROWS // PER_SHARD
    assert 0 < n_bytes[0] < n_shards * size / 5
    before = n_bytes[0]
    assert store.todo(ids) == []
    kept = [id_ for id_ in ids if int(id_, 16) % 10]
    store.norms(kept)
    assert n_bytes[0] == before
    list(store.shards(kept))
    list(store.shards(kept))
    assert n_bytes[0] == before + n_shards * size


def test_no_request_a_row(folder: RemotePath, asked: Counter[str]) -> None:
    store, ids = FeatureStore.open(folder, RECIPE), ids_of(N_ROWS)
    asked.clear()
    fill(store, ids)
    n_shards = N_ROWS // PER_SHARD
    assert (asked["put"], asked["ls"]) == (n_shards, 1)
    asked.clear()
    assert store.todo(ids) == []
    assert asked["ls"] == 1
    assert asked["cat"] <= 3 * n_shards
    asked.clear()
    assert store.todo(ids) == []
    assert sum(asked.values()) <= 2


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("refused"), OSError(errno.EBUSY, "slow down"), TimeoutError("too slow")]
)
def test_a_server_that_fails_now_and_then_changes_nothing(
    folder: RemotePath, told: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_SECONDS", 0.001)
    ids, n_requests, n_failed = ids_of(N_ROWS), [0], [0]

    def before(*_: str) -> None:
        n_requests[0] += 1
        if n_requests[0] % 3:
            n_failed[0] += 1
            raise error

    told.before = staticmethod(before)
    store = FeatureStore.open(folder, RECIPE)
    fill(store, ids)
    assert store.todo(ids) == []
    assert n_failed[0] > 20
    told.before = staticmethod(lambda *_: None)
    assert store.verify() == []


def test_after_its_patience_it_says_what_the_server_said(
    folder: RemotePath, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ids = FeatureStore.open(folder, RECIPE), ids_of(N_ROWS)
    fill(store, ids[: N_ROWS // 2])
    monkeypatch.setattr(attempts, "PATIENCE_SECONDS", 0.5)

    def away(*_: str) -> None:
        raise ConnectionRefusedError("connection refused")

    told.before = staticmethod(away)
    with pytest.raises(RemoteError, match=r"told://bucket/.*no good answer for 0.5 seconds \(connection refused\)"):
        fill(store, ids)
    told.before = staticmethod(lambda *_: None)
    assert len(store.todo(ids)) == N_ROWS // 2
    fill(store, ids)
    assert store.todo(ids) == []


def test_access_that_is_denied_is_no_empty_store(folder: RemotePath, told: Any) -> None:
    store = FeatureStore.open(folder, RECIPE)

    def denied(*_: str) -> None:
        raise PermissionError("Forbidden")

    told.before = staticmethod(denied)
    questions: list[Callable[[], object]] = [
        lambda: store.todo(ids_of(1)),
        lambda: store.has(ids_of(1)),
        lambda: FeatureStore.load(folder),
        lambda: folder.is_dir(),
    ]
    for question in questions:
        with pytest.raises(RemoteError, match=r"access denied \(Forbidden\)"):
            question()
