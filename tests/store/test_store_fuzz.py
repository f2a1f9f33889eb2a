"""Whatever is done to the bytes of a store: refused as damage, or read as what was written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import StoreError
from tamis.similarity import load_similarity, save_similarity
from tamis.store import FeatureStore
from tamis.store.quantize import STORE_DTYPES
from tamis.store.recipe import with_store_dtype

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module", params=STORE_DTYPES)
def whole(tmp_path_factory: pytest.TempPathFactory, rows, request: pytest.FixtureRequest) -> dict[Path, bytes]:
    """A store of one shard and a similarity: their files and bytes."""
    folder = tmp_path_factory.mktemp("fuzz")
    store = FeatureStore.open(folder / "store", with_store_dtype(rows.recipe, request.param))
    rows.fill(store, rows.ids(12), rows_per_shard=12)
    save_similarity(folder / "S.npy", MATRIX, rows.ids(2), rows.ids(3))
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_files(whole: dict[Path, bytes], rows, data: st.DataObject) -> None:
    for path, content in whole.items():
        path.write_bytes(content)
    path = data.draw(st.sampled_from(list(whole)))
    changed = bytearray(whole[path])
    for _ in range(data.draw(st.integers(1, 2))):
        start = data.draw(st.integers(0, len(changed)))
        changed[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    path.write_bytes(changed)

    folder = next(iter(whole)).parent
    ids = rows.ids(12)
    kept = rows.kept(ids)

    def store() -> FeatureStore:
        return FeatureStore.load(folder / "store")

    readers: list[tuple[Callable[[], Any], Any]] = [
        (lambda: store().todo(ids), []),
        (lambda: store().held(), set(ids)),
        (lambda: store().skipped(), rows.skipped(ids)),
        (lambda: store().norms(kept).tolist(), rows.norm(kept).tolist()),
        (lambda: store().n_tokens(kept).tolist(), rows.n_tokens(kept).tolist()),
        (lambda: store().rows(kept).shape, (len(kept), 6)),
        (lambda: load_similarity(folder / "S.npy")[0].tolist(), MATRIX.tolist()),
    ]
    for read, expected in readers:
        try:
            assert read() == expected
        except StoreError:
            continue
    try:
        bad = store().verify()
    except StoreError:
        return
    is_shard = path.suffix == ".safetensors" and bytes(changed) != whole[path]
    assert [found for found, _ in bad] == ([path] if is_shard else [])
