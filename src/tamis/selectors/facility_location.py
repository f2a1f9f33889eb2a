"""Facility location: rows such that every row of the pool has a similar one among them."""

import heapq

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import csc_array, csr_array

from tamis.selectors.picks import Picks
from tamis.selectors.rows import Rows, blocks, check_features, equal_rows

_BLOCK_CELLS = 1 << 24  # of similarities computed at once: 64 MB


def facility_location(
    features: Rows, *, n_examples: int, n_neighbors: int = 256, memory_bytes: int | None = None
) -> Picks:
    """Greedy maximisation of Σ_i max_{j taken} s_ij, on a graph: s_ij counts only for the n_neighbors j nearest to i.

    s_ij = max(0, cosine of rows i and j); i itself is among its neighbours, with 1. This is the truncated objective,
    not the full one: with n_neighbors = pool they are the same. Greedy reaches 1 − 1/e of the best.

    Ties go to the lowest pool index. Scores are what each pick added. Rows that add nothing follow by index, from
    `n_supported` on; it is None if there are none. A smaller n_examples is a prefix of a larger one.

    The graph takes 8 bytes for each row and neighbour, twice. Products are float32, gains float64.

    ValueError for features that are not finite, n_examples out of range, n_neighbors below 1, or a graph that takes
    more than `memory_bytes`.

    Source: Mirzasoleiman et al., CRAIG, arXiv 1906.01827; lazy evaluation: Minoux 1978.

    >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [1.0, -0.1], [0.0, 1.0]])
    >>> facility_location(rows, n_examples=2).indices
    array([1, 3])
    """
    check_features(features, n_examples)
    if n_neighbors < 1:
        raise ValueError(f"expected n_neighbors of at least 1, got {n_neighbors}")
    n_neighbors = min(n_neighbors, features.shape[0])
    n_bytes = 2 * 8 * features.shape[0] * n_neighbors
    if memory_bytes is not None and n_bytes > memory_bytes:
        fitting = memory_bytes // (2 * 8 * features.shape[0])
        remedy = f"lower n_neighbors to {fitting} or raise the memory" if fitting else "raise the memory"
        raise ValueError(
            f"expected a graph of up to {memory_bytes / 1e9:.3g} GB, got {n_bytes / 1e9:.3g} GB for {n_neighbors} "
            f"neighbours of {features.shape[0]:,} rows; {remedy}"
        )
    graph = _graph(features, n_neighbors)
    covered = np.zeros(features.shape[0])
    heap = [(-gain, row) for row, gain in enumerate(np.asarray(graph.sum(axis=0, dtype=np.float64)).ravel().tolist())]
    heapq.heapify(heap)
    indices: list[int] = []
    scores: list[float] = []
    while len(indices) < n_examples:
        _, row = heapq.heappop(heap)
        part = slice(graph.indptr[row], graph.indptr[row + 1])
        members, values = graph.indices[part], graph.data[part]
        gain = float(np.maximum(values - covered[members], 0).sum())
        if heap and (-gain, row) > heap[0]:
            heapq.heappush(heap, (-gain, row))  # others may add more now
            continue
        indices.append(row)
        scores.append(gain)
        covered[members] = np.maximum(covered[members], values)
    n_adding = int(np.count_nonzero(scores))
    return Picks(np.array(indices), np.array(scores), n_supported=n_adding if n_adding < n_examples else None)


def _graph(features: Rows, n_neighbors: int) -> csc_array:
    """Row i holds the cosines of its nearest rows that are above 0, itself with 1; ties to the lowest index."""
    n_pool = features.shape[0]
    columns, values = np.empty(n_pool * n_neighbors, np.int32), np.empty(n_pool * n_neighbors, np.float32)
    starts = np.zeros(n_pool + 1, np.int64)
    first, copies = equal_rows(features)
    n_at_once = max(1, _BLOCK_CELLS // n_pool)
    for start in range(0, n_pool, n_at_once):
        mine = _unit(np.asarray(features[start : start + n_at_once], np.float32))
        cosine = np.empty((len(mine), n_pool), np.float32)
        for part, rows in blocks(features):
            np.matmul(mine, _unit(rows).T, out=cosine[:, part])
        np.minimum(cosine, 1, out=cosine)
        own = np.arange(len(mine))
        cosine[own, first[start + own]] = mine.any(axis=1)  # 1 between equal rows, but for zero rows
        cosine[:, copies] = cosine[:, first[copies]]
        cosine[own, start + own] = 2  # itself, before any other
        for row, of_row in enumerate(cosine, start):
            kept = _highest_positive(of_row, n_neighbors)
            part = slice(starts[row], starts[row] + len(kept))
            columns[part], values[part], starts[row + 1] = kept, np.minimum(of_row[kept], 1), part.stop
    used = slice(starts[-1])
    return csr_array((values[used], columns[used], starts), shape=(n_pool, n_pool)).tocsc()


def _highest_positive(values: Float32[np.ndarray, " pool"], n: int) -> Int64[np.ndarray, " kept"]:
    """Where the n highest values are, without those that are not above 0; in order of position."""
    if n >= len(values):
        return np.flatnonzero(values > 0)
    threshold = np.partition(values, len(values) - n)[len(values) - n]
    if threshold <= 0:
        return np.flatnonzero(values > 0)
    kept = np.flatnonzero(values >= threshold)
    if len(kept) > n:  # ties at the threshold: the first of them
        tied = np.flatnonzero(values[kept] == threshold)
        kept = np.delete(kept, tied[n - len(kept) :])
    return kept


def _unit(rows: Float32[np.ndarray, "row dim"]) -> Float32[np.ndarray, "row dim"]:
    length = np.sqrt(np.einsum("rd,rd->r", rows, rows))
    unit: np.ndarray = rows / np.where(length > 0, length, 1)[:, None]
    return unit
