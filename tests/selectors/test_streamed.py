"""Picks are the same however much is in memory: mapped, read from stores, in small blocks, spread over processes."""

import inspect
import multiprocessing
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_laws import USING_SIMILARITY
from test_rows import Lazy

from tamis import methods
from tamis.engine.local import LocalEngine
from tamis.progress import Told
from tamis.selectors import (
    Picks,
    Rows,
    facility_location,
    herding,
    k_center,
    knn_kde,
    matching_pursuit,
    tagcos,
)
from tamis.selectors.matching_pursuit import _Products
from tamis.selectors.rows import blocks
from tamis.store import FeatureStore, StoredRows

N_POOL, DIM = 120, 16
SIMILARITY = np.random.default_rng(5).uniform(-1, 1, (4, N_POOL)).astype(np.float32)
OF_ROWS: dict[str, Callable[..., Picks]] = {
    "knn_kde": partial(knn_kde, SIMILARITY, n_examples=N_POOL, lr_weights=[1.0]),
    "k_center": partial(k_center, n_examples=40),
    "herding": partial(herding, n_examples=40),
    "facility_location": partial(facility_location, n_examples=N_POOL, n_neighbors=9),
    "matching_pursuit": partial(matching_pursuit, goal=np.arange(1.0, DIM + 1) / DIM, n_examples=40),
    "tagcos": partial(tagcos, n_examples=40, n_clusters=5),
}


def select(name: str, rows: Rows, **given) -> Picks:
    return OF_ROWS[name](**({"pool_features": [rows]} if name == "knn_kde" else {"features": rows}), **given)


def loose(seed: int = 0, n_rows: int = N_POOL) -> np.ndarray:
    """Unit rows of no pattern, as a store keeps them."""
    rows = np.random.default_rng(seed).standard_normal((n_rows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def exact() -> np.ndarray:
    """Unit rows of ±1/2 in 4 places, a third of them copies: no product is rounded, and ties are ties."""
    rng = np.random.default_rng(0)
    rows = np.zeros((N_POOL, DIM), np.float16)
    for row in rows:
        row[rng.choice(DIM, 4, replace=False)] = rng.choice([-0.5, 0.5, 0.5], 4)
    rows[80:] = rows[rng.integers(0, 80, 40)]
    return rows


def assert_same(found: Picks, expected: Picks, rtol: float = 0.0) -> None:
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=rtol, atol=rtol)
    assert (found.weights is None) is (expected.weights is None)
    if found.weights is not None:
        np.testing.assert_allclose(found.weights, expected.weights, rtol=rtol, atol=rtol)
    assert found.n_supported == expected.n_supported


def test_every_method_is_under_these_laws() -> None:
    assert set(OF_ROWS) == {name for name, selector in methods.SELECTORS.items() if selector.needs_rows}
    assert set(USING_SIMILARITY) >= {name for name, s in methods.SELECTORS.items() if "similarity" in s.needs}


# ---- similarities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", USING_SIMILARITY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_levels", [4, 10**6])  # ties are common, or there are none
def test_a_mapped_similarity_gives_the_same_picks(name: str, dtype: type, n_levels: int, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).integers(-n_levels, n_levels, (7, 300)).astype(dtype) / n_levels
    np.save(tmp_path / "S.npy", matrix)
    part = np.load(tmp_path / "S.npy", mmap_mode="r")[2:6]  # the rows of one of several targets
    picks = USING_SIMILARITY[name](part, 300)
    assert_same(picks, USING_SIMILARITY[name](matrix[2:6], 300))
    assert not any(isinstance(values, np.memmap) for values in (picks.indices, picks.scores))


# In knn_kde's law S is turned into rows; transport holds its kernel unless it is given little memory
@pytest.mark.parametrize("name", sorted(USING_SIMILARITY.keys() - {"knn_kde", "unbalanced_transport"}))
def test_no_copy_of_a_mapped_similarity_is_held(name: str, tmp_path: Path) -> None:
    path = tmp_path / "S.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (150, 30_000)).astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    USING_SIMILARITY[name](mapped[:2, :9], 5)  # what is imported or compiled once does not count
    tracemalloc.start()
    USING_SIMILARITY[name](mapped, 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mapped.nbytes / 3


# ---- features ------------------------------------------------------------------------------------------------------


def store_of(folder: Path, table: np.ndarray, seed: int, rows_per_shard: int = 17) -> FeatureStore:
    """The rows of a table, shuffled over shards; the id of row i is i."""
    store = FeatureStore.open(folder, {"dim": DIM, "seed": seed})
    for some in np.split(np.random.default_rng(seed).permutation(len(table)), range(17, len(table), rows_per_shard)):
        ids, ones = [f"{row:032x}" for row in some], np.ones(len(some))
        store.write(ids, table[some], ones, ones.astype(np.int32), ids, {})
    return store


IDS = [f"{row:032x}" for row in range(N_POOL)]


def read_little_at_once(monkeypatch, n_rows: int = 7) -> None:
    """Blocks of so many rows. K-means alone still reads all."""
    small = partial(blocks, block_bytes=n_rows * 4 * DIM)
    for name, module in list(sys.modules.items()):
        if name.startswith("tamis.selectors.") and hasattr(module, "blocks"):
            monkeypatch.setattr(module, "blocks", small)
    monkeypatch.setattr(
        sys.modules["tamis.selectors.facility_location"], "_BLOCK_CELLS", n_rows * N_POOL, raising=False
    )
    monkeypatch.setattr(sys.modules["tamis.selectors.density"], "_BLOCK_ROWS", n_rows)


def little_memory(name: str) -> dict[str, int]:
    """None, where it may be asked for at all; but for a graph."""
    is_asked_for = "memory_bytes" in inspect.signature(OF_ROWS[name]).parameters
    return {"memory_bytes": 16 * N_POOL * 9 if name == "facility_location" else 0} if is_asked_for else {}


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("make", [loose, exact])
def test_rows_of_a_store_are_picked_as_from_an_array(name: str, make, tmp_path: Path) -> None:
    stored = StoredRows([store_of(tmp_path, make(), 1)], [1.0], IDS)
    assert_same(select(name, stored), select(name, make().astype(np.float32)))


@pytest.mark.parametrize("name", OF_ROWS)
def test_rows_of_two_stores_are_picked_as_from_their_sum(name: str, tmp_path: Path) -> None:
    stores = [store_of(tmp_path / str(seed), loose(seed), seed) for seed in (1, 2)]
    stored = StoredRows(stores, [0.75, 0.25], IDS)
    assert_same(select(name, stored), select(name, stored[:]))


@pytest.mark.parametrize("name", sorted(OF_ROWS.keys() - {"knn_kde"}))
def test_small_blocks_give_the_same_picks(name: str, tmp_path: Path, monkeypatch) -> None:
    """Ties and copies among them."""
    expected = select(name, exact().astype(np.float32))
    read_little_at_once(monkeypatch)
    stored = StoredRows([store_of(tmp_path, exact(), 1)], [1.0], IDS)
    assert_same(select(name, exact().astype(np.float32)), expected, rtol=1e-6)
    for rows in (Lazy(exact()), stored):
        assert_same(select(name, rows, **little_memory(name)), expected, rtol=1e-6)


# Elsewhere k-means reads all, up to a size, and a pursuit the rows it has taken
@pytest.mark.parametrize("name", sorted(OF_ROWS.keys() - {"tagcos", "matching_pursuit"}))
def test_no_more_is_read_at_once_than_a_block(name: str, monkeypatch) -> None:
    read_little_at_once(monkeypatch, 7)
    lazy = Lazy(exact().astype(np.float32))
    select(name, lazy, **little_memory(name))
    assert lazy.most == 7


def test_a_pursuit_reads_no_more_at_once_than_a_block_where_all_rows_tie(monkeypatch) -> None:
    read_little_at_once(monkeypatch, 7)
    lazy = Lazy(exact().astype(np.float32))
    matching_pursuit(lazy, np.zeros(DIM), n_examples=5, memory_bytes=0)
    assert lazy.most == 7


@pytest.mark.parametrize("memory_bytes", [0, 4_000, 1 << 30])
def test_knn_kde_gives_the_same_picks_in_any_memory(memory_bytes: int, monkeypatch) -> None:
    """Some rows are so crowded that only their nearest count."""
    n_pool, n_picks = 400, 30
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, DIM))[rng.integers(0, 6, n_pool)] + 0.4 * rng.standard_normal((n_pool, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    similarity = rows[:3] @ rows.T + rng.uniform(0, 0.1, (3, n_pool)).astype(np.float32)
    given = {"lr_weights": [0.6, 0.4], "n_density_neighbors": 12, "c": 0.05}
    expected = knn_kde(similarity, n_examples=n_picks, pool_features=[rows, rows[:, ::-1]], **given)
    assert expected.scores.max() < 1 / 3
    assert (expected.scores[:-1] > expected.scores[1:] * (1 + 1e-5)).all()  # no near ties: to ask for is fair
    read_little_at_once(monkeypatch, 7)
    lazy = [Lazy(rows), Lazy(rows[:, ::-1].copy())]
    picks = knn_kde(similarity, n_examples=n_picks, pool_features=lazy, memory_bytes=memory_bytes, **given)
    assert_same(picks, expected, rtol=3e-6)
    assert lazy[0].most == 7


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
@pytest.mark.parametrize("seed", range(5))
def test_matching_pursuit_gives_the_same_picks_in_any_memory(memory_bytes: int, seed: int, monkeypatch) -> None:
    rows = np.hstack([loose(4 * seed + k) for k in range(4)]).astype(np.float32)
    goal = rows[:9].sum(axis=0).astype(np.float64)
    given = {"n_examples": 12, "ridge": 0.01}
    assert _Products(rows, goal, 12, memory_bytes).keeps is (memory_bytes > 0)
    expected = matching_pursuit(rows, goal, **given)
    read_little_at_once(monkeypatch)
    picks = matching_pursuit(Lazy(rows), goal, memory_bytes=memory_bytes, **given)
    assert_same(picks, expected, rtol=1e-4)


# ---- clusters over an engine ---------------------------------------------------------------------------------------


def test_tagcos_gives_the_same_picks_by_the_engine_and_by_a_pool_of_processes(tmp_path: Path) -> None:
    stored = StoredRows([store_of(tmp_path, loose(), 1)], [1.0], IDS)
    expected = tagcos(stored, n_examples=40, n_clusters=6)

    def by_engine(function, tasks):
        return LocalEngine().run(lambda: lambda task, _: function(task), tasks, Told())

    assert_same(tagcos(stored, n_examples=40, n_clusters=6, map=by_engine), expected)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert_same(tagcos(stored, n_examples=40, n_clusters=6, map=pool.map), expected)
        assert_same(tagcos(stored, n_examples=40, n_clusters=6, map=pool.imap), expected)
