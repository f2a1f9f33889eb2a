"""Feature rows that need not be in memory: what selectors over features read, a block at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64

from tamis.selectors.picks import check_n_examples

_BLOCK_BYTES = 1 << 24


@runtime_checkable
class Rows(Protocol):
    """Anything with a shape `[pool, dim]` that gives rows of floats by slice or by positions: an array, a memory map,
    or rows that are read from a store when they are asked for.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(pool, dim)."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """The rows of a slice or of an array of positions, as an array `[row, dim]`."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the rows, by position, as rows of their own; nothing is read before it is asked for."""

    features: Rows
    positions: Int64[np.ndarray, " row"]

    @property
    def shape(self) -> tuple[int, int]:
        """(row, dim)."""
        return len(self.positions), self.features.shape[1]

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The rows of a slice or of positions among these."""
        part: np.ndarray = self.features[self.positions[rows]]
        return part


def blocks(features: Rows, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[slice, Float32[np.ndarray, "row dim"]]]:
    """All rows in order as float32, so many at a time; float32 rows in memory are not copied."""
    n_pool, dim = features.shape
    n_rows = max(1, block_bytes // (4 * dim))
    for start in range(0, n_pool, n_rows):
        part = slice(start, min(start + n_rows, n_pool))
        yield part, np.asarray(features[part], np.float32)


def dot(features: Rows, vectors: Float32[np.ndarray, "dim ..."]) -> Float32[np.ndarray, "pool ..."]:
    """The product of every row with a vector `[dim]`, or with each of the columns of `[dim, n]`."""
    out = np.empty((features.shape[0], *vectors.shape[1:]), np.float32)
    for part, rows in blocks(features):
        np.matmul(rows, vectors, out=out[part])
    return out


def mean(features: Rows) -> Float[np.ndarray, " dim"]:
    """The mean row, float64."""
    total = np.zeros(features.shape[1])
    for _, rows in blocks(features):
        total += rows.sum(axis=0, dtype=np.float64)
    return total / features.shape[0]


def check_features(features: Rows, n_examples: int) -> None:
    """ValueError for features that are not `[pool, dim]` and finite, or a number of examples they cannot give."""
    if len(features.shape) != 2 or 0 in features.shape:
        raise ValueError(f"expected features [pool, dim] with at least one of each, got shape {features.shape}")
    check_n_examples(n_examples, features.shape[0])
    for part, rows in blocks(features):
        if not np.isfinite(rows.sum(dtype=np.float64)):
            bad = ~np.isfinite(rows)
            if bad.any():
                row, column = np.argwhere(bad)[0].tolist()
                raise ValueError(f"expected finite features, got {rows[row, column]} at [{part.start + row}, {column}]")
