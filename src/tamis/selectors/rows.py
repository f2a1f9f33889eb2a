"""Feature rows that need not be in memory: what selectors over features read, a block at a time."""

import hashlib
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
        with np.errstate(over="ignore"):  # check_features names what float32 cannot hold
            rows = np.asarray(features[part], np.float32)
        yield part, rows


def dot(features: Rows, vectors: Float32[np.ndarray, "dim ..."]) -> Float32[np.ndarray, "pool ..."]:
    """The product of every row with a vector `[dim]`, or with each of the columns of `[dim, n]`."""
    out = np.empty((features.shape[0], *vectors.shape[1:]), np.float32)
    for part, rows in blocks(features):
        np.matmul(rows, vectors, out=out[part])
    return out


def mean(features: Rows) -> Float[np.ndarray, " dim"]:
    """The mean row, float64."""
    return column_sums(features) / features.shape[0]


def column_sums(features: Rows) -> Float[np.ndarray, " dim"]:
    """The sum of all rows, float64."""
    total = np.zeros(features.shape[1])
    for _, rows in blocks(features):
        total += rows.sum(axis=0, dtype=np.float64)
    return total


def equal_rows(features: Rows) -> tuple[Int64[np.ndarray, " pool"], Int64[np.ndarray, " copy"]]:
    """For each row the first one equal to it as float32, which may be itself; and the rows for which it is another.

    BLAS gives equal rows products that differ in the last bit, by where they lie in a block: a selector that breaks
    ties by position must give them the first one's. Rows that share their first two numbers with another are compared
    by 128-bit digests; 24 bytes for each row are held.
    """
    n_pool = features.shape[0]
    heads = np.empty((n_pool, 2), np.float32)
    for part, rows in blocks(features):
        heads[part] = rows[:, :1]
        heads[part, : rows.shape[1]] = rows[:, :2]
    heads += np.float32(0)  # -0.0 is equal to 0.0
    keys = heads.view(np.uint64)[:, 0]
    ordered = np.sort(keys)
    shared = np.flatnonzero(np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]]))
    first = np.arange(n_pool)
    if len(shared):
        first[shared] = shared[_first_equal(Part(features, shared))]
    return first, np.flatnonzero(first != np.arange(n_pool))


def _first_equal(features: Rows) -> Int64[np.ndarray, " pool"]:
    """For each row the first one with its digest."""
    digests = np.empty((features.shape[0], 2), np.uint64)
    for part, rows in blocks(features):
        whole = np.ascontiguousarray(rows + np.float32(0))
        digest = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in whole)
        digests[part] = np.frombuffer(digest, np.uint64).reshape(-1, 2)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first of equal rows comes first
    ordered = digests[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


def check_features(features: Rows, n_examples: int) -> None:
    """ValueError for features that are not `[pool, dim]` and finite as float32, or too few for n_examples."""
    if len(features.shape) != 2 or 0 in features.shape:
        raise ValueError(f"expected features [pool, dim] with at least one of each, got shape {features.shape}")
    check_n_examples(n_examples, features.shape[0])
    check_finite(features, np.arange(features.shape[0]))


def check_finite(features: Rows, positions: Int64[np.ndarray, " row"]) -> None:
    """ValueError that names the first number, of the rows at some positions, that is not finite as float32."""
    is_all = np.array_equal(positions, np.arange(features.shape[0]))
    for part, rows in blocks(features if is_all else Part(features, positions)):
        with np.errstate(invalid="ignore"):
            products = rows @ np.zeros(rows.shape[1], np.float32)  # NaN · 0 and ∞ · 0 are NaN
        if products.any():
            row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
            place = positions[part.start + row]
            raise ValueError(f"expected finite features, got {rows[row, column]} at [{place}, {column}]")
