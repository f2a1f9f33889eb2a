"""The rows of one or several stores as if they were one array, read when they are asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tamis.errors import StoreError
from tamis.store.feature_store import FeatureStore
from tamis.store.half import to_float32
from tamis.store.shards import map_features


class StoredRows:
    """`rows[positions]` is float32 `[row, dim]`: Σ weight · the row of that id in each store.

    Where each id is in each store is looked up once (8 bytes an id and store); shards are mapped for as long as a
    request takes. StoreError if an id has no row.
    """

    def __init__(self, stores: Sequence[FeatureStore], weights: Sequence[float], ids: Sequence[str]) -> None:
        self.shape = (len(ids), int(stores[0].recipe["dim"]))
        self._weights = weights
        self._places = [_Places(store, ids) for store in stores]

    def __getitem__(self, rows: slice | np.ndarray, /) -> Float32[np.ndarray, "row dim"]:
        positions = np.arange(self.shape[0])[rows]
        total = np.zeros((len(positions), self.shape[1]), np.float32)
        for weight, places in zip(self._weights, self._places, strict=True):
            places.add(positions, np.float32(weight), total)
        return total


class _Places:
    """Of every id the shard and the row in it."""

    def __init__(self, store: FeatureStore, ids: Sequence[str]) -> None:
        self._dim = int(store.recipe["dim"])
        self._shards: list[tuple[Path, int]] = []
        self._shard, self._row = np.full(len(ids), -1, np.int32), np.empty(len(ids), np.int32)
        for path, n_rows, positions, rows in store.places(ids):
            self._shard[positions], self._row[positions] = len(self._shards), rows
            self._shards.append((path, n_rows))
        if (self._shard < 0).any():
            raise StoreError(
                f"{store.folder}: of {len(ids)} examples asked for {(self._shard < 0).sum()} have no row. "
                "Run `tamis represent` for the missing ones, and leave out the skipped."
            )

    def add(self, positions: np.ndarray, weight: np.float32, total: Float32[np.ndarray, "row dim"]) -> None:
        shards = self._shard[positions]
        order = np.argsort(shards, kind="stable")
        starts = np.flatnonzero(np.diff(shards[order], prepend=-1))
        for part in np.split(order, starts[1:]) if len(order) else []:
            path, n_rows = self._shards[shards[part[0]]]
            features = map_features(path, n_rows, self._dim)
            total[part] += weight * to_float32(features[self._row[positions[part]]])
