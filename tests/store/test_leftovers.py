"""What is listed, deleted and left alone; each case stands beside things that are needed, and they stay."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import DamagedError, InputError
from tamis.similarity import load_similarity, save_similarity
from tamis.store import FeatureStore
from tamis.store.contents import store_infos, totals
from tamis.store.leftovers import leftovers, remove
from tamis.store.recipe import folder_name, with_store_dtype

OLD = 4000
MATRIX = np.ones((2, 3), np.float32)
Age = Callable[..., None]


def age(folder: Path, seconds: float = OLD) -> None:
    """As if nobody had written there since."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


def checkpoint(folder: Path, fingerprint: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (folder / "adam.safetensors").write_bytes(b"moments")
    return folder


def gradients(workspace: Path, rows, fingerprint: str, dtype: str = "float16") -> FeatureStore:
    recipe = with_store_dtype({**rows.recipe, "kind": "gradient", "adam": "sgd", "checkpoint": fingerprint}, dtype)
    store = FeatureStore.open(workspace / "features" / folder_name(recipe), recipe)
    rows.fill(store, rows.ids(12))
    return store


@pytest.fixture
def ws(tmp_path: Path, rows) -> Path:
    """A workspace in which all is needed: two checkpoints, their stores, losses, a similarity; an hour old."""
    workspace = tmp_path / "ws"
    for number, fingerprint in enumerate(("aaaa" * 8, "bbbb" * 8), 1):
        checkpoint(workspace / "checkpoints" / "warm" / f"epoch-{number}", fingerprint)
        gradients(workspace, rows, fingerprint)
    gradients(workspace, rows, "aaaa" * 8, "int8")
    losses = {"kind": "loss", "base_model": "cccc" * 8, "dim": 6}
    rows.fill(FeatureStore.open(workspace / "features" / folder_name(losses), losses), rows.ids(8))
    save_similarity(workspace / "similarity" / f"{'5' * 32}.npy", MATRIX, rows.ids(2), rows.ids(3))
    (workspace / "similarity" / f"{'5' * 32}.lock").touch()
    age(workspace)
    return workspace


def found(workspace: Path, **options: object) -> dict[str, str]:
    return {str(one.path.relative_to(workspace)): one.reason for one in leftovers(workspace, **options)}


def test_nothing_is_left_over_where_all_is_needed(ws: Path, contents) -> None:
    before = contents(ws)
    assert leftovers(ws) == []
    assert remove(leftovers(ws)) == 0
    assert contents(ws) == before


def test_each_thing_that_nothing_needs(ws: Path, rows, contents) -> None:
    before = contents(ws)
    gone = gradients(ws, rows, "dddd" * 8)
    kept = gradients(ws, rows, "aaaa" * 8)
    (gone.folder / ("9" * 32 + ".safetensors.damaged")).write_bytes(b"1")
    aside = kept.folder / ("8" * 32 + ".safetensors.damaged")
    aside.write_bytes(b"12345")
    (ws / "similarity" / ("7" * 32 + ".npy.damaged")).write_bytes(b"123")
    (kept.folder / ".x.safetensors.1.tmp").write_bytes(b"12")
    (ws / "similarity" / ".x.npy.1.tmp").write_bytes(b"1234")
    checkpoint(ws / "checkpoints" / "warm" / ".epoch-3.77.tmp", "eeee" * 8)
    save_similarity(ws / "similarity" / f"{'1' * 32}.npy", MATRIX, rows.ids(2), rows.ids(3))
    (ws / "similarity" / f"{'1' * 32}.npy").unlink()
    save_similarity(ws / "similarity" / f"{'2' * 32}.npy", MATRIX, rows.ids(2), rows.ids(3))
    (ws / "similarity" / f"{'2' * 32}.npy.ids").unlink()
    age(ws)
    listed = leftovers(ws)
    assert found(ws) == {
        f"features/{kept.folder.name}/{'8' * 32}.safetensors.damaged": "set aside as damaged",
        f"similarity/{'7' * 32}.npy.damaged": "set aside as damaged",
        f"features/{kept.folder.name}/.x.safetensors.1.tmp": "its writer died",
        "similarity/.x.npy.1.tmp": "its writer died",
        "checkpoints/warm/.epoch-3.77.tmp": "its writer died",
        f"features/{gone.folder.name}": f"its checkpoint dddddddd is not in {ws / 'checkpoints'} "
        "(say where a warm-up is kept elsewhere: --checkpoints)",
        f"similarity/{'1' * 32}.npy.ids": "its similarity is gone",
        f"similarity/{'2' * 32}.npy": "its ids are gone",
    }
    n_bytes = sum(len(data) for data in contents(ws).values()) - sum(map(len, before.values()))
    assert sum(one.n_bytes for one in listed) == n_bytes
    assert remove(listed) == n_bytes
    assert contents(ws) == before
    assert leftovers(ws) == []


def test_what_was_written_to_in_the_last_hour_stays(ws: Path, rows, contents) -> None:
    gradients(ws, rows, "dddd" * 8)
    (ws / "similarity" / ".x.npy.1.tmp").write_bytes(b"1234")
    checkpoint(ws / "checkpoints" / "warm" / ".epoch-3.77.tmp", "eeee" * 8)
    save_similarity(ws / "similarity" / f"{'1' * 32}.npy", MATRIX, rows.ids(2), rows.ids(3))
    (ws / "similarity" / f"{'1' * 32}.npy.ids").unlink()
    before = contents(ws)
    assert leftovers(ws) == []
    age(ws)
    listed = leftovers(ws)
    assert len(listed) == 4
    age(ws, seconds=0)  # between the listing and the deletion, others came
    assert remove(listed) == 0
    assert contents(ws) == before


def test_a_store_someone_adds_a_shard_to_stays(ws: Path, rows) -> None:
    gone = gradients(ws, rows, "dddd" * 8)
    age(ws)
    assert len(leftovers(ws)) == 1
    rows.fill(gone, rows.ids(16))
    assert leftovers(ws) == []


def test_shards_all_of_whose_ids_earlier_ones_hold(ws: Path, rows) -> None:
    """Rows and skips count alike; a shard with one id of its own stays, and readers see what they saw."""
    store = gradients(ws, rows, "aaaa" * 8)
    ids = rows.ids(12)
    for start in range(12):  # overlapping shards, of which names decide
        rows.write(store, ids[start : start + 3])
    rows.write(store, rows.ids(14)[9:])
    held, skipped, features = store.held(), store.skipped(), store.rows(rows.kept(rows.ids(14)))
    age(ws)
    paths = sorted(store.folder.glob("*.safetensors"))
    seen: set[str] = set()
    expected = []
    for path in paths:
        of_path = FeatureStore(store.folder, store.recipe)._ids(path)
        mine = {bytes(row).hex() for row in of_path.assigned}
        expected += [path] if mine <= seen else []
        seen |= mine
    listed = leftovers(ws)
    assert 0 < len(expected) < len(paths)
    assert [one.path for one in listed] == expected
    remove(listed)
    assert (store.held(), store.skipped()) == (held, skipped)
    np.testing.assert_array_equal(store.rows(rows.kept(rows.ids(14))), features)
    assert leftovers(ws) == []


def test_while_a_shard_is_damaged_its_doubles_stay(ws: Path, rows) -> None:
    store = gradients(ws, rows, "aaaa" * 8)
    ids = rows.kept(rows.ids(12))
    rows.write(store, ids)
    age(ws)
    assert leftovers(ws)
    path = min(store.folder.glob("*.safetensors"))
    data = path.read_bytes()
    features = np.asarray(next(iter(store.shards(ids)))[1]).astype(np.float16).tobytes()
    start = data.index(features)
    path.write_bytes(data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :])
    age(ws)
    assert leftovers(ws) == []


def test_warm_ups_kept_elsewhere_are_named(ws: Path, rows, tmp_path: Path) -> None:
    gone = gradients(ws, rows, "dddd" * 8)
    epoch = checkpoint(tmp_path / "elsewhere" / "warm" / "epoch-1", "dddd" * 8)
    age(ws)
    assert [one.path for one in leftovers(ws)] == [gone.folder]
    for folder in (epoch, epoch.parent, epoch.parent.parent):
        assert leftovers(ws, checkpoints=[folder]) == []
    with pytest.raises(InputError, match=r"no checkpoint\.json of tamis in it"):
        leftovers(ws, checkpoints=[tmp_path / "nowhere"])
    (ws / "checkpoints" / "linked").symlink_to(epoch.parent)
    age(ws)
    assert leftovers(ws) == []


def test_where_no_checkpoint_is_known_gradients_are_not_judged(ws: Path) -> None:
    """All warm-ups may be elsewhere, and features take hours."""
    for path in ws.glob("checkpoints/warm/epoch-*/*"):
        path.unlink()
    age(ws)
    assert leftovers(ws) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", "7", "[" * 10**5])
def test_a_checkpoint_that_cannot_be_read_stops_it(ws: Path, text: str) -> None:
    (ws / "checkpoints" / "warm" / "epoch-1" / "checkpoint.json").write_text(text)
    age(ws)
    with pytest.raises(DamagedError, match=r"epoch-1/checkpoint\.json: cannot be read .*`tamis verify`"):
        leftovers(ws)


def test_all_similarities_if_asked(ws: Path, rows) -> None:
    own = ws / "similarity" / "own.npy"
    save_similarity(own, MATRIX, rows.ids(2), rows.ids(3))
    age(ws)
    listed = leftovers(ws, similarities=True)
    assert [one.path.name for one in listed] == [f"{'5' * 32}.npy", f"{'5' * 32}.npy.ids"]  # never ids first
    remove(listed[:1])
    with pytest.raises(InputError, match="no such similarity"):
        load_similarity(listed[0].path)
    assert sorted(path.name for path in own.parent.iterdir()) == [
        f"{'5' * 32}.lock", f"{'5' * 32}.npy.ids", "own.npy", "own.npy.ids",
    ]  # fmt: skip


def test_nothing_outside_is_followed_or_deleted(ws: Path, rows, tmp_path: Path, contents) -> None:
    outside = tmp_path / "outside"
    store = gradients(outside, rows, "dddd" * 8)
    (store.folder / ("8" * 32 + ".safetensors.damaged")).write_bytes(b"12345")
    (outside / "x.tmp").write_bytes(b"1")
    age(outside)
    before = contents(outside)
    (ws / "features" / store.folder.name).symlink_to(store.folder)
    (ws / "features" / ("8" * 32 + ".damaged")).symlink_to(outside / "x.tmp")
    (ws / "similarity" / ".x.tmp").symlink_to(outside / "x.tmp")
    (ws / "similarity" / ("1" * 32 + ".npy")).symlink_to(outside / "x.tmp")
    age(ws)
    assert leftovers(ws, similarities=False) == []
    [moved] = [path for path in ws.glob("features/*") if not path.is_symlink() and path.is_dir()][:1]
    moved.rename(tmp_path / "moved")
    (ws / "features").rename(tmp_path / "features")
    (ws / "features").symlink_to(outside / "features")
    age(ws)
    assert leftovers(ws) == []
    assert contents(outside) == before


def test_a_temporary_folder_with_a_link_in_it_loses_the_link_alone(ws: Path, tmp_path: Path) -> None:
    outside = checkpoint(tmp_path / "outside", "ffff" * 8)
    folder = checkpoint(ws / "checkpoints" / "warm" / ".epoch-3.77.tmp", "eeee" * 8)
    (folder / "link").symlink_to(outside)
    age(ws)
    remove(leftovers(ws))
    assert not folder.exists()
    assert sorted(path.name for path in outside.iterdir()) == ["adam.safetensors", "checkpoint.json"]


def test_a_store_with_something_else_in_it_stays(ws: Path, rows) -> None:
    gone = gradients(ws, rows, "dddd" * 8)
    (gone.folder / "notes.txt").write_text("keep")
    age(ws)
    assert leftovers(ws) == []


def test_only_a_workspace(tmp_path: Path, store: FeatureStore) -> None:
    for folder in (tmp_path, store.folder, tmp_path / "nowhere"):
        for ask in (leftovers, totals):
            with pytest.raises(InputError, match=f"{folder}: no workspace here"):
                ask(folder)


# ---- in numbers ----------------------------------------------------------------------------------------------------


def test_info(ws: Path, rows) -> None:
    store = gradients(ws, rows, "aaaa" * 8)
    rows.write(store, rows.ids(16)[8:])  # some ids again
    infos = {info.folder: info for info in store_infos(ws)}
    assert len(infos) == 4
    info = infos[store.folder]
    n_skipped = len(rows.skipped(rows.ids(16)))
    assert (info.what, info.dtype) == ("gradient, sgd, aaaaaaaa", "float16")
    assert (info.n_rows, info.n_skipped, info.n_shards, info.problem) == (16 - n_skipped, n_skipped, 4, None)
    assert info.n_bytes == sum(path.stat().st_size for path in store.folder.glob("*.safetensors"))
    assert sorted((info.what, info.dtype) for info in infos.values()) == [
        ("gradient, sgd, aaaaaaaa", "float16"),
        ("gradient, sgd, aaaaaaaa", "int8"),
        ("gradient, sgd, bbbbbbbb", "float16"),
        ("loss, cccccccc", "float16"),
    ]
    assert store_infos(store.folder) == [info]
    found = totals(ws)
    assert {name: total.n for name, total in found.items()} == {
        "stores": 4, "checkpoints": 2, "similarities": 1, "set aside": 0, "temporaries": 0,
    }  # fmt: skip
    files = [path for path in ws.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sum(total.n_bytes for total in found.values()) == sum(path.stat().st_size for path in files)


def test_info_of_an_empty_store_and_of_damage(ws: Path, rows, tmp_path: Path) -> None:
    [info] = store_infos(FeatureStore.open(tmp_path / "empty", {"dim": 4}).folder)
    assert (info.n_rows, info.n_skipped, info.n_shards, info.what) == (0, 0, 0, "?")
    store = gradients(ws, rows, "aaaa" * 8)
    path = min(store.folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    [info] = store_infos(store.folder)
    assert path.name in info.problem
    assert 0 < info.n_rows + info.n_skipped < 12
    (store.folder / "recipe.json").unlink()
    [info] = store_infos(store.folder)
    assert "recipe.json is missing" in info.problem
    assert (info.what, info.dtype, info.n_shards) == ("?", "?", 3)


def test_info_follows_links(ws: Path, tmp_path: Path) -> None:
    """Features may be on a disk of their own."""
    before = [(info.what, info.n_bytes) for info in store_infos(ws)], totals(ws)
    (ws / "features").rename(tmp_path / "large disk")
    (ws / "features").symlink_to(tmp_path / "large disk")
    assert ([(info.what, info.n_bytes) for info in store_infos(ws)], totals(ws)) == before
