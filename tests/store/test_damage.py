"""Killed writers, several writers, damaged files."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tamis.errors import DamagedError
from tamis.store import FeatureStore, StoredRows

every_dtype = pytest.mark.parametrize("store", ["float16", "int8", "sign"], indirect=True)


def contents(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.fixture
def undisturbed(tmp_path: Path, rows) -> dict[str, bytes]:
    store = FeatureStore.open(tmp_path / "undisturbed", rows.recipe)
    rows.fill(store, rows.ids(60))
    return contents(store)


def test_a_writer_killed_before_the_rename_leaves_no_shard(store: FeatureStore, rows, spawn, undisturbed) -> None:
    ids = rows.ids(60)
    rows.fill(store, ids[:8])
    writer = spawn(
        """
def stop(*_):
    print("written", flush=True)
    sys.stdin.read()
store = FeatureStore.load(files.Path(sys.argv[1]))
files.publish = stop
rows.write(store, rows.ids(60)[8:12])
        """,
        store.folder,
    )
    assert writer.stdout.readline() == "written\n"
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    [leftover] = store.folder.glob(".*")
    assert store.held() == set(ids[:8])
    assert not store.has(ids[8:12])
    rows.fill(FeatureStore.open(store.folder, rows.recipe), ids)
    assert leftover.exists()  # young, so its writer may be alive
    os.utime(leftover, (time.time() - 4000, time.time() - 4000))
    FeatureStore.open(store.folder, rows.recipe)
    assert contents(store) == undisturbed


@every_dtype
def test_a_writer_killed_at_any_time_loses_only_the_shard_it_was_on(store: FeatureStore, rows, spawn) -> None:
    writer = spawn(
        """
store = FeatureStore.load(files.Path(sys.argv[1]))
for assigned in store.plan(rows.ids(10_000), 2):
    rows.write(store, assigned)
    print(len(assigned), flush=True)
        """,
        store.folder,
    )
    for _ in range(5):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    n_shards = len(list(store.folder.glob("*.safetensors")))
    assert 5 <= n_shards < 5000
    assert store.verify() == []
    assert store.todo(rows.ids(10_000)) == rows.ids(10_000)[2 * n_shards :]


def test_two_writers_at_once_give_what_one_gives(store: FeatureStore, rows, spawn, undisturbed) -> None:
    script = """
store = FeatureStore.open(files.Path(sys.argv[1]), rows.recipe)
plan = store.plan(rows.ids(60), 4)
print("ready", flush=True)
sys.stdin.read()
for assigned in plan[:: int(sys.argv[2])]:
    rows.write(store, assigned)
    """
    writers = [spawn(script, store.folder, direction) for direction in (1, 1, -1)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert contents(store) == undisturbed


@pytest.mark.parametrize("hash_seed", [1, 2])
def test_bytes_are_the_same_in_every_process(store: FeatureStore, rows, spawn, undisturbed, hash_seed: int) -> None:
    script = "rows.fill(FeatureStore.open(files.Path(sys.argv[1]), rows.recipe), rows.ids(60))"
    assert spawn(script, store.folder, hash_seed=hash_seed).wait() == 0
    assert contents(store) == undisturbed


@every_dtype
def test_every_flipped_bit_is_found_and_the_shard_is_computed_again(store: FeatureStore, rows) -> None:
    ids = rows.ids(12)
    [path] = rows.fill(store, ids, rows_per_shard=12)
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position * 3 % 8)
        path.write_bytes(flipped)
        assert [damaged for damaged, _ in store.verify()] == [path], f"byte {position} of {len(whole)}"
    set_aside = store.set_aside(path)
    assert set_aside.read_bytes() == bytes(flipped)
    assert store.verify() == []
    assert store.todo(ids) == ids
    assert rows.fill(store, ids, rows_per_shard=12) == [path]
    assert path.read_bytes() == whole


@every_dtype
def test_readers_refuse_a_shard_that_is_cut_short(store: FeatureStore, rows) -> None:
    ids = rows.ids(12)
    [path] = rows.fill(store, ids, rows_per_shard=12)
    whole = path.read_bytes()
    readers = (
        store.held,
        store.skipped,
        lambda: store.todo(ids),
        lambda: store.rows(ids),
        lambda: [*store.shards(ids)],
    )
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        for reader in readers:
            with pytest.raises(DamagedError, match=f"{path.name}.*`tamis verify {store.folder}`"):
                reader()
        assert [damaged for damaged, _ in store.verify()] == [path]


@every_dtype
def test_readers_refuse_damaged_ids_reasons_norms_and_counts(store: FeatureStore, rows) -> None:
    ids = rows.ids(40)
    kept = rows.kept(ids)
    [path] = rows.fill(store, ids, rows_per_shard=40)
    whole = path.read_bytes()
    for found, reader in [
        (bytes.fromhex(kept[3]), lambda: store.todo(ids)),
        (b"no completion token left", store.skipped),
        (rows.norm(kept).tobytes(), lambda: store.norms(kept)),
        (rows.n_tokens(kept).tobytes(), lambda: store.n_tokens(kept)),
    ]:
        start = whole.index(found)
        path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
        with pytest.raises(DamagedError, match="checksum of"):
            reader()


def test_a_shard_under_another_name_is_damaged(store: FeatureStore, rows) -> None:
    [path] = rows.fill(store, rows.ids(3))
    moved = path.rename(path.with_name("0" * 32 + ".safetensors"))
    [(damaged, reason)] = store.verify()
    assert damaged == moved
    assert path.name in reason


@pytest.mark.parametrize("changes", [{"dim": 7}, {"projection": {"seed": 1}}, {"kind": "other"}])
def test_a_shard_of_another_recipe_is_never_read(store: FeatureStore, rows, tmp_path: Path, changes: dict) -> None:
    ids = rows.kept(rows.ids(5))
    [path] = rows.fill(store, ids, rows_per_shard=5)
    other = FeatureStore.open(tmp_path / "other", {**rows.recipe, **changes})
    (other.folder / path.name).write_bytes(path.read_bytes())
    [(_, reason)] = other.verify()
    assert "made by a recipe with digest" in reason
    for reader in (other.held, other.skipped, lambda: other.todo(ids), lambda: other.rows(ids)):
        with pytest.raises(DamagedError, match="made by a recipe"):
            reader()
    other.set_aside(other.folder / path.name)
    assert other.todo(ids) == ids


def test_a_nan_is_found_even_under_a_right_checksum(store: FeatureStore, rows, monkeypatch) -> None:
    monkeypatch.setattr("tamis.store.feature_store._check_rows", lambda *_: None)
    ids = rows.kept(rows.ids(5))
    store.write(ids, np.full((len(ids), 6), np.nan, np.float32), rows.norm(ids), rows.n_tokens(ids), ids, {})
    assert [reason for _, reason in store.verify()] == ["features holds a number that is not finite"]


def test_a_flipped_bit_of_the_features_is_found_where_they_are_used(store: FeatureStore, rows) -> None:
    [path] = rows.fill(store, rows.ids(12), 12)
    ids = rows.kept(rows.ids(12))
    data = bytearray(path.read_bytes())
    with safe_open(path, "numpy") as file:
        features = file.get_tensor("features").tobytes()
    data[data.index(features) + 5] ^= 1
    path.write_bytes(bytes(data))
    for use in (store.rows, lambda ids: list(store.shards(ids)), lambda ids: StoredRows([store], [1.0], ids)[:]):
        with pytest.raises(DamagedError, match=r"checksum of features differs.*tamis verify"):
            use(ids)
