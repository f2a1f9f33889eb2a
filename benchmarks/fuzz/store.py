"""Any bytes in place of a shard, a recipe or a similarity: read as what they are, or refused; never a wrong row."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from tamis.errors import TamisError
from tamis.similarity import load_similarity, save_similarity
from tamis.store import FeatureStore

_FOLDER = Path(tempfile.mkdtemp(prefix="tamis-fuzz-"))
_RECIPE = {"dim": 4, "kind": "test"}
_IDS = [f"{i:032x}" for i in range(3)]


def _make() -> tuple[bytes, ...]:
    store = FeatureStore.open(_FOLDER / "store", _RECIPE)
    rows = np.eye(4, dtype=np.float32)[:2]
    shard = store.write(_IDS, rows, np.ones(2, np.float32), np.ones(2, np.int32), _IDS[:2], {_IDS[2]: "zero"})
    save_similarity(_FOLDER / "s.npy", np.ones((2, 3), np.float32), _IDS[:2], _IDS)
    ids = next(path for path in _FOLDER.iterdir() if path.is_file() and path.suffix != ".npy")
    return tuple(path.read_bytes() for path in (shard, store.folder / "recipe.json", _FOLDER / "s.npy", ids))


_WHOLE = _make()
_SHARD = next((_FOLDER / "store").glob("*.safetensors"))
_PLACES = (
    _SHARD,
    _FOLDER / "store" / "recipe.json",
    _FOLDER / "s.npy",
    next(path for path in _FOLDER.iterdir() if path.is_file() and path.suffix != ".npy"),
)
SEEDS = [bytes([place]) + content for place, content in enumerate(_WHOLE)]


def one(data: bytes) -> None:
    """The first byte chooses the file that the rest stands in for."""
    if not data:
        return
    for path, content in zip(_PLACES, _WHOLE, strict=True):
        path.write_bytes(content)
    _PLACES[data[0] % 4].write_bytes(data[1:])
    for ask in (_features, _columns, _similarity):
        try:
            ask()
        except TamisError:
            continue
    for path in (_FOLDER / "store").glob("*.damaged"):
        path.unlink()
    shutil.rmtree(_FOLDER / "store" / "x", ignore_errors=True)


def _features() -> None:
    store = FeatureStore.load(_FOLDER / "store")
    store.verify()
    store.todo(_IDS)
    store.skipped()
    for _, rows in store.shards(_IDS[:2]):
        np.asarray(rows).sum()
    FeatureStore.open(_FOLDER / "store", _RECIPE)


def _columns() -> None:
    store = FeatureStore.load(_FOLDER / "store")
    norms, n_tokens = store.norms(_IDS[:2]), store.n_tokens(_IDS[:2])
    if not (np.array_equal(norms, [1, 1]) and np.array_equal(n_tokens, [1, 1])):
        raise AssertionError("a damaged shard was read")


def _similarity() -> None:
    values, *_ = load_similarity(_FOLDER / "s.npy")
    if values.ndim != 2:
        raise AssertionError("not a similarity")
    np.asarray(values).sum()
