"""TAGCOS: a weighted coreset of the whole pool, cluster by cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from tamis.selectors.matching_pursuit import matching_pursuit
from tamis.selectors.picks import Picks
from tamis.selectors.rows import Part, Rows, blocks, check_features, mean

Task = tuple[Int64[np.ndarray, " member"], int]
Map = Callable[[Callable[[Task], Picks], Sequence[Task]], Iterable[Picks]]

_MINI_BATCH_ABOVE = 1 << 26  # numbers in all features together: 256 MB as float32
_BATCH_ROWS, _RUN_ROWS, _MIN_BATCHES = 4096, 64, 100


def tagcos(
    features: Rows,
    *,
    n_examples: int,
    n_clusters: int = 100,
    ridge: float = 1.0,
    tolerance: float = 1e-4,
    seed: int = 0,
    map: Map = map,
    memory_bytes: int = 1 << 30,
) -> Picks:
    """Rows that stand for the pool: k-means, then `matching_pursuit` of each cluster's mean by the cluster's rows.

    A cluster's share of n_examples is proportional to its size, with the largest remainders rounded up, so that the
    total is exact. Picks come in the order of (place in the cluster, from 0)/(the cluster's share), ties to the lowest
    pool index: a cut keeps every cluster. Weights are the pursuit's, times the cluster's part of the pool, so that
    Σ weight·row approximates the pool's mean row. Not prefix-nested: shares depend on n_examples.

    `features` `[pool, dim]` may be any rows that can be read by position; they are never held all at once if they are
    more than 2²⁶ numbers. Above that size scikit-learn's MiniBatchKMeans sees them in batches of 4,096, in runs of 64
    neighbouring rows drawn by `seed`, all of them once or more and 100 batches or more; below it, KMeans with one
    k-means++ start runs to its end. n_clusters is at most the number of rows. A pursuit holds up to `memory_bytes` of
    rows and their products.

    `map` runs the clusters: the built-in one, or one that spreads them over processes.

    ValueError for features that are not finite, or n_examples or n_clusters out of range.

    Source: TAGCOS, Zhang et al., arXiv 2407.15235. Its code gives each cluster the same rounded-down percentage.

    >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> tagcos(rows, n_examples=2, n_clusters=2).indices
    array([0, 2])
    """
    check_features(features, n_examples)
    if n_clusters < 1:
        raise ValueError(f"expected n_clusters of at least 1, got {n_clusters}")
    labels = _clusters(features, min(n_clusters, features.shape[0]), seed)
    sizes = np.bincount(labels)
    shares = _shares(sizes, n_examples)
    used = np.flatnonzero(shares)
    tasks = [(np.flatnonzero(labels == cluster), int(shares[cluster])) for cluster in used]
    found = list(map(partial(_pursue, features, ridge, tolerance, memory_bytes), tasks))
    indices = np.concatenate([picks.indices for picks in found])
    scores = np.concatenate([picks.scores for picks in found])
    parts = sizes[used] / features.shape[0]
    weights = np.concatenate([_weights(picks) * part for picks, part in zip(found, parts, strict=True)])
    order = np.lexsort((indices, np.concatenate([np.arange(len(picks)) / len(picks) for picks in found])))
    return Picks(indices[order], scores[order], weights[order])


def _pursue(features: Rows, ridge: float, tolerance: float, memory_bytes: int, task: Task) -> Picks:
    """The pursuit of one cluster's mean, in positions of the pool."""
    members, n_examples = task
    rows: Rows = Part(features, members)
    held = memory_bytes // 2
    if 4 * len(members) * features.shape[1] <= held:  # a larger cluster stays where it is
        rows = np.asarray(features[members], np.float32)
    picks = matching_pursuit(
        rows, mean(rows), n_examples=n_examples, ridge=ridge, tolerance=tolerance, memory_bytes=held
    )
    return Picks(members[picks.indices], picks.scores, picks.weights)


def _weights(picks: Picks) -> np.ndarray:
    assert picks.weights is not None
    return picks.weights


def _shares(sizes: Int64[np.ndarray, " cluster"], n_examples: int) -> Int64[np.ndarray, " cluster"]:
    """n_examples dealt out in proportion to the sizes: rounded down, the rest to the largest remainders."""
    exact = n_examples * sizes  # in units of 1/pool
    shares, remainders = np.divmod(exact, sizes.sum())
    largest = np.argsort(-remainders, kind="stable")[: n_examples - shares.sum()]
    shares[largest] += 1
    result: np.ndarray = shares
    return result


def _clusters(features: Rows, n_clusters: int, seed: int) -> Int32[np.ndarray, " pool"]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    n_pool, dim = features.shape
    if n_pool * dim <= _MINI_BATCH_ABOVE:
        rows = np.asarray(features[:], np.float32)
        labels: np.ndarray = KMeans(n_clusters, n_init=1, random_state=seed).fit(rows).labels_
        return labels.astype(np.int32)
    model: Any = MiniBatchKMeans(n_clusters, n_init=1, random_state=seed)
    for positions in _batches(n_pool, seed):
        model.partial_fit(np.asarray(features[positions], np.float32))
    return np.concatenate([model.predict(rows) for _, rows in blocks(features)]).astype(np.int32)


def _batches(n_pool: int, seed: int) -> Iterator[Int64[np.ndarray, " row"]]:
    rng = np.random.default_rng(seed)
    n_passes = -(-_MIN_BATCHES * _BATCH_ROWS // n_pool)
    for _ in range(n_passes):
        runs = rng.permutation(-(-n_pool // _RUN_ROWS))
        for start in range(0, len(runs), _BATCH_ROWS // _RUN_ROWS):
            chosen = np.sort(runs[start : start + _BATCH_ROWS // _RUN_ROWS])
            positions = (chosen[:, None] * _RUN_ROWS + np.arange(_RUN_ROWS)).ravel()
            yield positions[positions < n_pool]
