import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis.errors import DamagedError, InputError, StoreError
from tamis.ids import unpack
from tamis.similarity import load_similarity, save_similarity, similarity, take_columns, writing_similarity
from tamis.store import FeatureStore

Shards = list[tuple[np.ndarray, np.ndarray]]


def unit(rng: np.random.Generator, n_rows: int, dim: int = 5) -> np.ndarray:
    rows = rng.standard_normal((n_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def one_shard(features: np.ndarray) -> Shards:
    return [(np.arange(len(features)), features)]


def test_hand_worked_table() -> None:
    targets = [np.array([[1, 0], [0, 1]], np.float32), np.array([[0.6, 0.8], [1, 0]], np.float32)]
    pools = [np.array([[1, 0], [0, 1], [0.6, 0.8]]), np.array([[0, 1], [1, 0], [0.6, 0.8]])]
    got = similarity(targets, [one_shard(pool) for pool in pools], [0.75, 0.25], 3)
    expected = [[0.75 + 0.2, 0.15, 0.45 + 0.25], [0.0, 0.75 + 0.25, 0.6 + 0.15]]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), block_bytes=st.integers(1, 400), data=st.data())
def test_sharding_order_and_block_size_do_not_matter(seed: int, block_bytes: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    n_pool, n_checkpoint = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 3))
    targets = [unit(rng, 3) for _ in range(n_checkpoint)]
    features = [unit(rng, n_pool).astype(np.float16) for _ in range(n_checkpoint)]
    lr_weights = rng.uniform(size=n_checkpoint).tolist()
    pools = []
    for rows in features:
        order = np.array(data.draw(st.permutations(range(n_pool)))) if data.draw(st.booleans()) else np.arange(n_pool)
        cuts = sorted(data.draw(st.lists(st.integers(0, n_pool), max_size=4)))
        pools.append([(positions, rows[positions]) for positions in np.split(order, cuts)])
    got = similarity(targets, pools, lr_weights, n_pool, block_bytes=block_bytes)
    each = zip(lr_weights, targets, features, strict=True)
    expected = sum(weight * (t.astype(np.float64) @ p.astype(np.float64).T) for weight, t, p in each)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_is_formed_in_a_given_matrix_whatever_it_held() -> None:
    rng = np.random.default_rng(0)
    targets, pool = [unit(rng, 2)], unit(rng, 7)
    out = np.full((2, 7), np.nan, np.float32)
    got = similarity(targets, [one_shard(pool)], [1.0], 7, out=out)
    assert got is out
    np.testing.assert_allclose(out, targets[0] @ pool.T, atol=1e-6)


def test_walks_a_pool_once_and_lazily() -> None:
    rng = np.random.default_rng(0)
    pool = unit(rng, 6)
    out = np.zeros((2, 6), np.float32)

    def shards() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for position in range(6):
            assert not out[:, position:].any(), "a later shard was used before it was asked for"
            yield np.array([position]), pool[[position]]
            assert out[:, position].all(), "the next shard was asked for before this one was used"

    similarity([unit(rng, 2)], [shards()], [1.0], 6, out=out)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1, 3], "1 without features and 0 with several; the first is position 2, 0 times"),
        ([0, 1, 2, 3, 1], "0 without features and 1 with several; the first is position 1, 2 times"),
        ([0, 1, 2, 3, 4], "positions below 4, found 0 to 4"),
        ([-1, 0, 1, 2], "positions below 4, found -1 to 2"),
        ([], "4 without features"),
    ],
)
def test_every_checkpoint_covers_every_position_once(positions: list[int], message: str) -> None:
    rng = np.random.default_rng(0)
    good = one_shard(unit(rng, 4))
    bad = [(np.array(positions, np.int64), unit(rng, len(positions)))]
    with pytest.raises(StoreError, match=f"checkpoint 1: .*{message}.*`tamis represent`"):
        similarity([unit(rng, 2)] * 2, [good, bad], [0.5, 0.5], 4)


def test_refuses_what_does_not_belong_together() -> None:
    rng = np.random.default_rng(0)
    target, pool = unit(rng, 2), one_shard(unit(rng, 4))
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        similarity([target], [pool, pool], [1.0], 4)
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        similarity([], [], [], 4)
    with pytest.raises(ValueError, match=r"shape \(2, 4\) float32, got \(2, 4\) float64"):
        similarity([target], [pool], [1.0], 4, out=np.zeros((2, 4)))


def test_streams_from_feature_stores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"{number:032x}" for number in range(10)]
    pools, stores = [unit(rng, 10), unit(rng, 10)], []
    for number, pool in enumerate(pools):
        store = FeatureStore.open(tmp_path / str(number), {"dim": 5})
        for start in range(0, 10, 3):
            part = ids[start : start + 3]
            n_tokens = np.ones(len(part), np.int32)
            store.write(part, pool[start : start + 3], np.ones(len(part), np.float32), n_tokens, part, {})
        stores.append(store)
    targets = [unit(rng, 2), unit(rng, 2)]
    asked = [7, 2, 2, 9, 0]  # some of the rows, in another order, a duplicate among them
    got = similarity(targets, [store.shards([ids[i] for i in asked]) for store in stores], [0.7, 0.3], len(asked))
    expected = 0.7 * targets[0] @ pools[0][asked].T + 0.3 * targets[1] @ pools[1][asked].T
    np.testing.assert_allclose(got, expected, atol=1e-3)


MATRIX = np.array([[0.5, -0.25, 1.0], [0.0, 0.125, -1.0]], np.float32)
TARGET_IDS = ["0" * 32, "1" * 32]
POOL_IDS = ["a" * 32, "b" * 32, "a" * 32]  # with kept duplicates, ids repeat


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "S.npy"
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    matrix, target_ids, pool_ids = load_similarity(path)
    assert isinstance(matrix, np.memmap)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert pool_ids is not None
    assert (target_ids, unpack(pool_ids)) == (TARGET_IDS, POOL_IDS)
    assert sorted(file.name for file in path.parent.iterdir()) == ["S.npy", "S.npy.ids"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "S.npy"
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    with pytest.raises(ValueError, match="broadcast"), writing_similarity(path, TARGET_IDS, POOL_IDS) as out:
        out[:, :2] = MATRIX
    np.testing.assert_array_equal(load_similarity(path)[0], MATRIX)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("n_published", [0, 1])
def test_a_writer_killed_while_replacing_never_leaves_the_ids_of_another(tmp_path: Path, n_published: int) -> None:
    path = tmp_path / "S.npy"
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    script = """
import os, sys, pathlib, numpy as np, tamis.similarity as module
publish, left = module.publish, [int(sys.argv[2])]
def publish_or_die(*paths):
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    publish(*paths)
module.publish = publish_or_die
module.save_similarity(pathlib.Path(sys.argv[1]), np.ones((1, 1), np.float32), ["2" * 32], ["c" * 32])
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", script, path, str(n_published)], env=environment, check=False)
    assert died.returncode == -9
    assert not path.exists()


def test_a_matrix_of_ones_own_has_no_ids(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "own.npy", MATRIX.astype(dtype))
        matrix, target_ids, pool_ids = load_similarity(tmp_path / "own.npy")
        np.testing.assert_array_equal(matrix, MATRIX)
        assert target_ids is pool_ids is None


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([[0.5, 1.0], [np.nan, np.inf]])), r"found nan at target 1, pool 0"),
        (npy(np.array([[0.5, -np.inf]])), r"found -inf at target 0, pool 1"),
        (npy(np.zeros(3)), r"found shape \(3,\) float64"),
        (npy(np.zeros((2, 3), np.int64)), r"found shape \(2, 3\) int64"),
        (npy(np.zeros((0, 3))), r"found shape \(0, 3\) float64"),
        (npy(np.array([[{}]])), r"a \.npy file of floats"),
        (npy(MATRIX)[:-1], r"a \.npy file of floats"),
        (b"0.5,0.25\n", r"a \.npy file of floats"),
        (b"", r"a \.npy file of floats"),
        (None, "no such similarity file"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "own.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_similarity(path)


def test_refuses_ids_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "S.npy"
    with pytest.raises(ValueError, match=r"shape \(1, 3\), got \(2, 3\)"):
        save_similarity(path, MATRIX, TARGET_IDS[:1], POOL_IDS)
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    np.save(path, MATRIX[:, :2])
    with pytest.raises(DamagedError, match=r"expected shape \(2, 3\) .* found \(2, 2\)"):
        load_similarity(path)
    ids = tmp_path / "S.npy.ids"
    ids.write_bytes(ids.read_bytes()[:50])
    with pytest.raises(DamagedError, match="it or its ids cannot be read"):
        load_similarity(path)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "S.npy"
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    whole = path.read_bytes()
    unread = range(whole.index(b"}") + 1, len(whole) - MATRIX.nbytes)  # the header's padding says nothing
    for position in set(range(len(whole))) - set(unread):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position * 3 % 8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedError, match="the next run makes both again"):
            load_similarity(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match="the next run makes both again"):
        load_similarity(path)


def test_damaged_ids_are_found(tmp_path: Path) -> None:
    path = tmp_path / "S.npy"
    save_similarity(path, MATRIX, TARGET_IDS, POOL_IDS)
    ids = tmp_path / "S.npy.ids"
    whole = ids.read_bytes()
    head, _, pool_ids = whole.partition(b"\n")
    for content in (
        whole[:-1],
        whole[:-16],
        whole + bytes(16),
        head,
        b"",
        b"[]\n" + pool_ids,
        b"7\n" + pool_ids,
        b"{}\n" + pool_ids,
        whole.replace(b"111", b"112"),
        whole.replace(b"\xaa", b"\xab"),
        b"[" * 10**5,
        whole.replace(b"target", b"t"),
    ):
        ids.write_bytes(content)
        with pytest.raises(DamagedError, match="the next run makes both again"):
            load_similarity(path)


# ---- some columns --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    matrix=hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
        lambda shape: hnp.arrays(
            st.sampled_from([np.float16, np.float32, np.float64]), shape, elements=st.floats(-8, 8, width=16)
        )
    ),
    order=st.sampled_from("CF"),
    data=st.data(),
)
def test_columns_taken_in_memory_and_in_a_file_are_the_same(matrix: np.ndarray, order: str, data) -> None:
    """In any order, some of them several times, none at all."""
    matrix = np.asarray(matrix, order=order)
    columns = np.array(data.draw(st.lists(st.integers(0, matrix.shape[1] - 1))), np.int64)
    n_bytes = matrix.itemsize * len(matrix) * len(columns)
    held, filed = (take_columns(matrix, columns, memory_bytes) for memory_bytes in (n_bytes, n_bytes - 1))
    for taken in (held, filed) if n_bytes else (held,):
        assert taken.dtype == matrix.dtype
        np.testing.assert_array_equal(taken, matrix[:, columns])
        assert isinstance(taken, np.memmap) is (taken is filed)


def test_columns_kept_in_a_file_leave_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = psutil.Process()
    n_open = process.num_fds()
    for _ in range(20):
        taken = take_columns(MATRIX, np.array([2, 0]), 0)
        assert list(tmp_path.iterdir()) == []  # nameless while it is in use, so that a killed run leaves nothing either
        assert process.num_fds() <= n_open + 2
    assert taken.tolist() == [[1.0, 0.5], [-1.0, 0.0]]
    del taken
    assert process.num_fds() == n_open
