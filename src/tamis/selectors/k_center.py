"""Farthest-first traversal: rows such that no row of the pool is far from all of them."""

import numpy as np

from tamis.selectors.picks import Picks
from tamis.selectors.rows import Rows, blocks, check_features, dot, equal_rows


def k_center(features: Rows, *, n_examples: int, seed: int = 0) -> Picks:
    """The first row is drawn by `seed`; each next one is the row farthest from those taken, in Euclidean distance.

    The largest distance of a row to its nearest pick is at most twice the smallest possible. Ties go to the lowest pool
    index. Scores are the distance of each pick to the nearest one before, of the first to the row farthest from it. A
    smaller n_examples is a prefix of a larger one. Features are read once for each pick; distances come from float32
    products, so those below 1e-3 of a row's length are rounding; between equal rows they are 0.

    ValueError for features that are not finite, or n_examples out of range.

    Source: Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5; as a coreset Sener and Savarese, arXiv 1708.00489.

    >>> k_center(np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [0.0, 5.0]]), n_examples=3).indices
    array([3, 2, 0])
    """
    check_features(features, n_examples)
    n_pool = features.shape[0]
    squared = np.concatenate([np.einsum("rd,rd->r", rows, rows) for _, rows in blocks(features)])
    first, copies = equal_rows(features)
    nearest = np.full(n_pool, np.inf, np.float32)  # squared distance to the nearest pick
    indices, scores = np.empty(n_examples, np.int64), np.empty(n_examples)
    pick = int(np.random.default_rng(seed).integers(n_pool))
    for rank in range(n_examples):
        indices[rank] = pick
        scores[rank] = np.sqrt(nearest[pick]) if rank else 0.0
        row = np.asarray(features[pick : pick + 1], np.float32)[0]
        distance = dot(features, -2 * row)
        distance += squared
        distance += squared[pick]
        np.maximum(distance, 0, out=distance)
        distance[first[pick]] = 0
        distance[copies] = distance[first[copies]]
        np.minimum(nearest, distance, out=nearest)
        if rank == 0:
            scores[0] = np.sqrt(nearest.max())
        nearest[pick] = -1  # taken
        pick = int(nearest.argmax())
    return Picks(indices, scores)
