"""Bytes by formula against files that were really written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.model.checkpoint import save_untrained
from tamis.model.load import LoraSettings, ModelSource, fresh_model
from tamis.planning import disk
from tamis.planning.flops import shape_of
from tamis.similarity import save_similarity
from tamis.store import FeatureStore, files


def _write(folder: Path, recipe: dict[str, Any], n_rows: int, shard_rows: int, n_skipped: int, reason: str) -> int:
    """Bytes of a store of so many ids, of which the first of each shard are skipped, as many as that takes."""
    store, rng = FeatureStore.open(folder, recipe), np.random.default_rng(0)
    ids = [f"{number:032x}" for number in rng.permutation(n_rows)]
    for start in range(0, n_rows, shard_rows):
        mine = ids[start : start + shard_rows]
        skipped = mine[: min(n_skipped, len(mine) - 1)]
        n_skipped -= len(skipped)
        kept = mine[len(skipped) :]
        rows = rng.standard_normal((len(kept), store.dim)).astype(np.float32)
        norm = np.linalg.norm(rows, axis=1).astype(np.float32)
        n_tokens = np.full(len(kept), 9, np.int32)
        store.write(tuple(mine), rows / norm[:, None], norm, n_tokens, kept, dict.fromkeys(skipped, reason))
    assert n_skipped == 0
    return files.size(folder)


@pytest.mark.parametrize("dim", [1, 63, 512])
@pytest.mark.parametrize("dtype", ["float16", "int8", "sign"])
@pytest.mark.parametrize(("n_rows", "shard_rows"), [(1, 8), (37, 8), (24, 24)])
def test_a_store_takes_exactly_what_is_said(tmp_path: Path, dim: int, dtype: str, n_rows: int, shard_rows: int) -> None:
    recipe = {"kind": "gradient", "dim": dim} | ({} if dtype == "float16" else {"store_dtype": dtype})
    assert disk.store_bytes(recipe, n_rows, shard_rows) == _write(tmp_path / "s", recipe, n_rows, shard_rows, 0, "")


def test_of_a_store_too_large_to_encode_whole_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_ENCODED_CELLS", 1024)
    recipe = {"kind": "gradient", "dim": 5000}
    real = _write(tmp_path / "s", recipe, 40, 16, 0, "")
    assert disk.store_bytes(recipe, 40, 16) == pytest.approx(real, abs=3 * 16)


def test_skipped_rows_take_their_reason(tmp_path: Path) -> None:
    recipe, reason = {"kind": "rds", "dim": 64}, 'no "completion" token within 96 tokens'
    real = _write(tmp_path / "s", recipe, 60, 20, 21, reason)
    assert disk.store_bytes(recipe, 60, 20, 21, reason) == pytest.approx(real, rel=0.01)
    assert disk.store_bytes(recipe, 0, 20) == 0


@pytest.mark.parametrize("lora", [LoraSettings(4, 8, 0.0, "attention"), None])
def test_a_checkpoint_is_weights_and_two_moments(tmp_path: Path, tiny_model: Path, lora: LoraSettings | None) -> None:
    source = ModelSource(str(tiny_model), device="cpu")
    save_untrained(tmp_path / "c", fresh_model(source, lora, 0), mean_learning_rate=1e-3, base_digest="0" * 32)
    assert disk.checkpoint_bytes(shape_of(source, lora)) == pytest.approx(files.size(tmp_path / "c"), rel=0.03)


def test_a_similarity_takes_its_cells_and_ids(tmp_path: Path) -> None:
    targets, pool = ([f"{n:032x}" for n in range(size)] for size in (3, 500))
    save_similarity(tmp_path / "s.npy", np.zeros((3, 500), np.float32), targets, pool)
    assert disk.similarity_bytes(3, 500) == pytest.approx(files.size(tmp_path), rel=0.01)


def test_folders_of_one_file_system_share_its_room(tmp_path: Path) -> None:
    needs = [("features", tmp_path / "not" / "there", 5), ("out", tmp_path, 7), ("features", tmp_path, 1)]
    (place,) = disk.places(needs)
    assert (place.folder, place.needed, place.used_by) == (tmp_path, 13, {"features": 6, "out": 7})
    assert place.free > 0
    assert disk.places([("texts", tmp_path, 0)]) == []
