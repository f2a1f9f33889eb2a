"""The rows of one or several stores as if they were one array, read when they are asked for."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from tamis.errors import StoreError
from tamis.ids import Ids
from tamis.remote import Place
from tamis.store.feature_store import FeatureStore
from tamis.store.shards import map_features, read_column


class StoredRows:
    """`rows[positions]` is float32 `[row, dim]`: Σ weight · the row of that id in each store.

    The rows are unit rows, or unless normalized as long as they were before they were scaled to unit.

    Where each id is in each store is looked up once (8 bytes an id and store; 12 with norms); shards are mapped for as
    long as a request takes. StoreError if an id has no row.
    """

    def __init__(
        self, stores: Sequence[FeatureStore], weights: Sequence[float], ids: Ids, normalized: bool = True
    ) -> None:
        self.shape = (len(ids), stores[0].dim)
        self._weights = weights
        self._places = [_Places(store, ids, normalized) for store in stores]

    def __getitem__(self, rows: slice | np.ndarray, /) -> Float32[np.ndarray, "row dim"]:
        positions = np.arange(self.shape[0])[rows]
        total = np.zeros((len(positions), self.shape[1]), np.float32)
        for weight, places in zip(self._weights, self._places, strict=True):
            places.add(positions, np.float32(weight), total)
        return total


class _Places:
    """Of every id the shard, the row in it, and unless normalized its norm."""

    def __init__(self, store: FeatureStore, ids: Ids, normalized: bool) -> None:
        self._dim, self._dtype = store.dim, store.store_dtype
        self._norm = None if normalized else np.empty(len(ids), np.float32)
        self._shards: list[tuple[Place, int]] = []
        self._shard, self._row = np.full(len(ids), -1, np.int32), np.empty(len(ids), np.int32)
        for path, n_rows, positions, rows in store.places(ids):
            self._shard[positions], self._row[positions] = len(self._shards), rows
            self._shards.append((path, n_rows))
            if self._norm is not None:
                self._norm[positions] = read_column(path, "norm", n_rows)[rows]
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
            features = map_features(path, n_rows, self._dim, self._dtype).take(self._row[positions[part]])
            if self._norm is not None:
                features = features.scaled(self._norm[positions[part]])
            total[part] += weight * features.to_float32()
