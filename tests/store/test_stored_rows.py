"""`StoredRows` against the sum that it stands for."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DamagedError, StoreError
from tamis.store import FeatureStore, StoredRows

DIM = 6


def unit(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    rows = rng.standard_normal((n_rows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def write(store: FeatureStore, ids: Sequence[str], features: np.ndarray) -> Path:
    return store.write(ids, features, np.ones(len(ids), np.float32), np.ones(len(ids), np.int32), ids, {})


@settings(max_examples=25, deadline=None)
@given(
    n_ids=st.integers(1, 20),
    weights=st.lists(st.sampled_from([1.0, 0.0, 0.3, -2.0]), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_is_the_weighted_sum_of_the_stores_rows(
    rows, n_ids: int, weights: list[float], seed: int, data: st.DataObject
) -> None:
    """Each store has shards and an order of its own, and more rows than are asked for; an id may be asked for twice."""
    rng = np.random.default_rng(seed)
    known = rows.ids(20)
    tables = [unit(rng, 20) for _ in weights]
    wanted = data.draw(st.lists(st.sampled_from(range(20)), min_size=n_ids, max_size=n_ids))
    asked = data.draw(st.lists(st.integers(-n_ids, n_ids - 1)))  # unsorted, repeated, none at all
    part = data.draw(st.slices(n_ids))
    with tempfile.TemporaryDirectory() as folder:
        stores = []
        for number, table in enumerate(tables):
            stores.append(FeatureStore.open(Path(folder) / str(number), rows.recipe))
            order = rng.permutation(20)
            for some in np.split(order, sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))):
                write(stores[-1], [known[place] for place in some], table[some])
        stored = StoredRows(stores, weights, [known[place] for place in wanted])
        whole = stored[:]
        expected = sum(w * t[wanted].astype(np.float64) for w, t in zip(weights, tables, strict=True))
        assert stored.shape == whole.shape == (n_ids, DIM)
        np.testing.assert_allclose(whole, expected, atol=1e-6)
        for request in (np.array(asked, np.int64), part, slice(0, 0), slice(n_ids, n_ids + 5)):
            found = stored[request]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, whole[request])  # to the last bit, whatever is asked for beside it


def test_one_store_with_weight_1_gives_its_rows_exactly(store: FeatureStore, rows) -> None:
    ids = rows.ids(30)
    rows.fill(store, ids)
    kept = rows.kept(ids)[::-1]
    np.testing.assert_array_equal(StoredRows([store], [1.0], kept)[:], store.rows(kept))


def test_of_doubled_ids_the_lexically_first_shard_wins(store: FeatureStore, rows) -> None:
    shared, *rest = rows.ids(9)
    basis = np.eye(DIM, dtype=np.float16)
    paths = {write(store, [other, shared], basis[[5, number]]): number for number, other in enumerate(rest[:4])}
    winner = paths[min(paths)]
    stored = StoredRows([store], [1.0], [rest[0], shared, rest[3]])
    np.testing.assert_array_equal(stored[:], basis[[5, winner, 5]])


def test_of_a_row_and_a_skip_the_lexically_first_shard_wins(store: FeatureStore, rows) -> None:
    ids = rows.ids(30)
    seen = set()
    for first, second in zip(ids[::2], ids[1::2], strict=True):
        as_row = write(store, [first], np.eye(DIM, dtype=np.float16)[:1])
        no_row = np.zeros((0, DIM), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        as_skipped = store.write([first, second], *no_row, [], {first: "NaN", second: "NaN"})
        seen.add(row_wins := as_row.name < as_skipped.name)
        if row_wins:
            assert StoredRows([store], [1.0], [first])[:].tolist() == [[1, 0, 0, 0, 0, 0]]
        else:
            with pytest.raises(StoreError, match="1 have no row"):
                StoredRows([store], [1.0], [first])
    assert seen == {True, False}


def test_an_id_without_a_row_is_an_error_that_counts_them(store: FeatureStore, rows, tmp_path: Path) -> None:
    ids = rows.ids(40)
    rows.fill(store, ids[:30])
    kept, n_skipped = rows.kept(ids[:30]), len(rows.skipped(ids[:30]))
    assert n_skipped > 0
    with pytest.raises(StoreError, match=rf"of 40 examples asked for {10 + n_skipped} have no row.*`tamis represent`"):
        StoredRows([store], [1.0], ids)
    empty = FeatureStore.open(tmp_path / "empty", rows.recipe)
    with pytest.raises(StoreError, match=rf"{empty.folder}: of {len(kept)} examples asked for {len(kept)} have no"):
        StoredRows([store, empty], [0.5, 0.5], kept)
    assert StoredRows([empty], [1.0], [])[:].shape == (0, DIM)


def test_shards_that_arrive_later_change_nothing(store: FeatureStore, rows) -> None:
    """Places are looked up once, so that all picks of one run are by the same rows."""
    ids = rows.ids(30)
    earlier = write(store, ids[:4], np.eye(DIM, dtype=np.float16)[:4])
    stored = StoredRows([store], [1.0], ids[:4])
    before = stored[:]
    later = [write(store, [ids[0], other], np.eye(DIM, dtype=np.float16)[4:]) for other in ids[4:]]
    assert min(later) < earlier  # and would win
    np.testing.assert_array_equal(stored[:], before)
    assert StoredRows([store], [1.0], ids[:1])[:].tolist() == [[0, 0, 0, 0, 1, 0]]


def test_a_shard_cut_short_meanwhile_is_damage(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(30))[:4]
    path = write(store, ids, np.eye(DIM, dtype=np.float16)[:4])
    stored = StoredRows([store], [1.0], ids)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=f"{path.name}.*`tamis verify {store.folder}`"):
        stored[:1]
