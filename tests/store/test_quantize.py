"""Int8 and sign rows: the laws of the encoding, worked tables, and every reader of a store against the same floats."""

import hashlib
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tamis.errors import DamagedError, StoreError
from tamis.similarity import similarity
from tamis.store import EncodedRows, FeatureStore, StoredRows
from tamis.store.quantize import STORE_DTYPES, quantize, stored_dim
from tamis.store.recipe import with_store_dtype

halves = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20).flatmap(
    lambda shape: hnp.arrays(np.float16, shape, elements=st.floats(-1, 1, width=16))
)


def decode(rows: np.ndarray, dtype: str) -> np.ndarray:
    data, scale = quantize(rows, dtype)
    return EncodedRows(data, rows.shape[1], scale).to_float32()


# ---- the encoding --------------------------------------------------------------------------------------------------


def test_int8_by_hand() -> None:
    rows = np.array([[127, 0.5, 1.5, -2.5, -127], [0, 0, 0, 0, 0], [2, -1, 1, 0, 0]], np.float16)
    data, scale = quantize(rows, "int8")
    assert data.dtype == np.int8
    assert data.tolist() == [[127, 0, 2, -2, -127], [0] * 5, [127, -64, 64, 0, 0]]  # halves go to the even number
    assert scale.tolist() == [1.0, 0.0, np.float32(2) / np.float32(127)]


def test_signs_by_hand() -> None:
    rows = np.array([[1, -1, 0, -0.0, -2, 3, -1, 1, -1, 1]], np.float16)
    data, scale = quantize(rows, "sign")
    assert scale is None
    assert data.dtype == np.uint8
    assert data.tolist() == [[0b10101101, 0b10]]  # coordinate 0 is the lowest bit of byte 0
    expected = np.array([1, -1, 1, 1, -1, 1, -1, 1, -1, 1]) / np.sqrt(10)
    np.testing.assert_allclose(decode(rows, "sign")[0], expected, rtol=1e-6)


@settings(deadline=None)
@given(rows=halves)
def test_int8_is_off_by_at_most_half_a_step(rows: np.ndarray) -> None:
    data, scale = quantize(rows, "int8")
    assert np.abs(data.astype(int)).max() <= 127  # never -128: the negative of a row has the negative numbers
    np.testing.assert_array_equal(quantize(-rows, "int8")[0], -data)
    exact = rows.astype(np.float64)
    assert (np.abs(decode(rows, "int8") - exact) <= 0.5001 * scale[:, None]).all()
    largest = np.abs(exact).max(axis=1)
    np.testing.assert_array_equal(np.abs(data).max(axis=1) == 127, largest > 0)


@settings(deadline=None)
@given(rows=halves)
def test_signs_are_unit_rows_with_the_signs_of_the_row(rows: np.ndarray) -> None:
    data, _ = quantize(rows, "sign")
    assert data.shape == (len(rows), stored_dim("sign", rows.shape[1]))
    found = decode(rows, "sign")
    np.testing.assert_array_equal(found > 0, rows >= 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(quantize(found.astype(np.float16), "sign")[0], data)


def test_float16_is_left_alone() -> None:
    rows = np.ones((2, 3), np.float16)
    assert quantize(rows, "float16") == (rows, None)


@pytest.mark.parametrize("dtype", STORE_DTYPES)
@pytest.mark.parametrize("dim", [1, 8, 13])
def test_parts_are_what_they_are_in_the_whole_and_room_is_used_again(dtype: str, dim: int) -> None:
    rng = np.random.default_rng(0)
    data, scale = quantize(rng.standard_normal((9, dim)).astype(np.float16), dtype)
    rows = EncodedRows(data, dim, scale).scaled(rng.uniform(0.5, 9, 9).astype(np.float32))
    assert (rows.shape, len(rows)) == ((9, dim), 9)
    whole = rows.to_float32()
    np.testing.assert_array_equal(np.asarray(rows), whole)
    room = np.full((9, rows.room_dim), np.nan, np.float32)
    for part in (slice(0, 9), slice(2, 5), slice(7, 20), slice(4, 4)):
        values = rows.values(part, room)
        assert np.shares_memory(values, room) or values.size == 0
        np.testing.assert_array_equal(values * rows.scale[part, None], whole[part])
        np.testing.assert_array_equal(rows.take(part).to_float32(), whole[part])
    np.testing.assert_array_equal(rows.take(np.array([8, 0, 0])).to_float32(), whole[[8, 0, 0]])


# ---- stores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int4", "float16", "INT8", 8, ["int8"], ""])
def test_an_unknown_dtype_in_a_recipe_is_an_error_that_names_it(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(StoreError, match='"store_dtype" int8 or sign') as error:
        FeatureStore.open(tmp_path / "store", {"dim": 5, "store_dtype": dtype})
    assert repr(dtype) in str(error.value)
    assert not (tmp_path / "store").exists()


def test_a_store_of_a_dtype_of_later_days_is_refused(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.folder / "recipe.json"
    path.unlink()
    with monkeypatch.context() as later:
        later.setattr("tamis.store.recipe.store_dtype", lambda *_: "int4")
        FeatureStore.open(store.folder, {**store.recipe, "store_dtype": "int4"})
    for read in (FeatureStore.load, lambda folder: FeatureStore.open(folder, store.recipe)):
        with pytest.raises(StoreError, match=r"recipe\.json: .*found 'int4'.* later tamis"):
            read(store.folder)


def test_a_float16_shard_has_the_bytes_it_always_had_and_is_still_read(store: FeatureStore, rows) -> None:
    """But for a CRC-32 of the features. Stores made earlier must stay what they are: these digests are of tamis 0.1."""
    [path] = rows.fill(store, rows.ids(12), 12)
    before = store.rows(rows.kept(rows.ids(12)))
    with safe_open(path, "numpy") as file:
        metadata = json.loads(file.metadata()["tamis"])
    assert metadata.pop("features_crc32") == f"{zlib.crc32(load_file(path)['features'].tobytes()):08x}"
    save_file(load_file(path), path, {"tamis": json.dumps({**metadata, "format": 2}, sort_keys=True)})
    assert hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() == "48418dfc487b9f0ab524d083a2be4ded"
    np.testing.assert_array_equal(store.rows(rows.kept(rows.ids(12))), before)
    assert store.verify() == []
    recipe = (store.folder / "recipe.json").read_bytes()
    assert hashlib.blake2b(recipe, digest_size=16).hexdigest() == "108eccf0ffeb79ebd4beb1ec5f13c197"


@pytest.mark.parametrize("store", ["int8", "sign"], indirect=True)
def test_rows_are_rounded_to_float16_first(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(20))
    features = rows.features(ids)
    path = store.write(ids, features, rows.norm(ids), rows.n_tokens(ids), ids, {})
    content = path.read_bytes()
    store.write(ids, features.astype(np.float16), rows.norm(ids), rows.n_tokens(ids), ids, {})
    assert path.read_bytes() == content
    np.testing.assert_array_equal(store.rows(ids), decode(features.astype(np.float16), store.store_dtype))


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(STORE_DTYPES),
    normalized=st.booleans(),
    dim=st.integers(1, 20),
    n_ids=st.integers(1, 20),
    block_bytes=st.integers(1, 400),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_every_reader_gives_the_same_rows(
    rows, dtype: str, normalized: bool, dim: int, n_ids: int, block_bytes: int, seed: int, data: st.DataObject
) -> None:
    """Unnormalised similarity is the inner product with norm · row, whatever the encoding, sharding and order."""
    rng = np.random.default_rng(seed)
    ids = rows.ids(20)
    table = rng.standard_normal((20, dim))
    norm = rng.uniform(0.01, 100, 20).astype(np.float32)
    table = (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float16)
    wanted = data.draw(st.lists(st.sampled_from(range(20)), min_size=n_ids, max_size=n_ids))
    asked = [ids[place] for place in wanted]
    # Rows as the floats they stand for, by another way than `EncodedRows`
    exact = table.astype(np.float64)
    if dtype == "int8":
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        # Within float32's rounding of half a step either neighbour is right
        is_tie = np.abs(np.abs(exact / step) % 1 - 0.5) < 1e-4
        exact = np.round(exact / step) * step
    if dtype == "sign":
        exact = np.where(exact >= 0, 1, -1) / np.sqrt(dim)
    if not normalized:
        exact = exact * norm[:, None]
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-6 if dtype != "int8" else 2e-5} if normalized else {"rtol": 1e-5, "atol": 1e-3}
    )
    target = rng.standard_normal((3, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        recipe = with_store_dtype({"dim": dim}, dtype)
        store = FeatureStore.open(Path(folder), recipe)
        order = rng.permutation(20)
        for some in np.split(order, sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))):
            part = [ids[place] for place in some]
            store.write(part, table[some], norm[some], np.ones(len(part), np.int32), part, {})
        assert store.verify() == []
        found = store.rows(asked, normalized)
        stored = StoredRows([store], [0.5], asked, normalized)[:]
        scores = similarity([target], [store.shards(asked, normalized)], [0.5], n_ids, block_bytes=block_bytes)
        walked = {
            int(p): row
            for positions, part in store.shards(asked, normalized)
            for p, row in zip(positions, np.asarray(part), strict=True)
        }
    if dtype == "int8":
        size = step[wanted] * (1.0 if normalized else norm[wanted, None])
        assert (np.abs(found - exact[wanted]) <= 1.001 * size)[is_tie[wanted]].all()
        exact[wanted] = np.where(is_tie[wanted], found, exact[wanted])
    np.testing.assert_allclose(found, exact[wanted], **tolerance)
    np.testing.assert_array_equal(np.stack([walked[place] for place in range(n_ids)]), found)
    np.testing.assert_array_equal(stored, np.float32(0.5) * found)
    expected = 0.5 * target.astype(np.float64) @ found.astype(np.float64).T
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5 if normalized else 1e-3)


def test_unnormalised_rows_of_several_stores_are_summed(rows, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, total = rows.ids(8), np.zeros((8, 6))
    stores = []
    for number, (dtype, weight) in enumerate([("float16", 0.3), ("int8", 0.6), ("sign", 0.1)]):
        store = FeatureStore.open(tmp_path / str(number), with_store_dtype(rows.recipe, dtype))
        norm = rng.uniform(1, 5, 8).astype(np.float32)
        store.write(ids, rows.features(ids), norm, np.ones(8, np.int32), ids, {})
        total += weight * norm[:, None] * decode(rows.features(ids).astype(np.float16), dtype)
        stores.append(store)
    found = StoredRows(stores, [0.3, 0.6, 0.1], ids, normalized=False)
    np.testing.assert_allclose(found[:], total, rtol=1e-5)
    np.testing.assert_array_equal(found[np.array([7, 0, 0])], found[:][[7, 0, 0]])


@pytest.mark.parametrize("store", ["int8"], indirect=True)
def test_readers_refuse_damaged_scales(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(20))
    path = store.write(ids, rows.features(ids), rows.norm(ids), rows.n_tokens(ids), ids, {})
    whole = path.read_bytes()
    _, scale = quantize(rows.features(ids).astype(np.float16), "int8")
    start = whole.index(scale.tobytes())
    path.write_bytes(whole[: start + 2] + bytes([whole[start + 2] ^ 1]) + whole[start + 3 :])
    stored = StoredRows([store], [1.0], ids)
    for read in (lambda: store.rows(ids), lambda: [*store.shards(ids)], lambda: stored[:1]):
        with pytest.raises(DamagedError, match=f"checksum of scale differs.*`tamis verify {store.folder}`"):
            read()
    assert [reason for _, reason in store.verify()] == ["checksum of scale differs"]


@pytest.mark.parametrize("store", STORE_DTYPES, indirect=True)
def test_a_shard_of_another_dtype_under_the_same_recipe_is_damage(
    store: FeatureStore, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken writer, for once: the type and shape of the rows are checked, and that int8 has scales."""
    ids = rows.kept(rows.ids(20))
    for dtype in STORE_DTYPES:
        with monkeypatch.context() as broken:
            broken.setattr("tamis.store.feature_store.quantize", lambda part, _, dtype=dtype: quantize(part, dtype))
            store.write(ids, rows.features(ids), rows.norm(ids), rows.n_tokens(ids), ids, {})
        if dtype == store.store_dtype:
            assert store.verify() == []
            continue
        with pytest.raises(DamagedError, match="features: expected"):
            store.rows(ids)
        assert len(store.verify()) == 1
