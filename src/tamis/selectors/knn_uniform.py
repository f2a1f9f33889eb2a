"""TSDS without density: each target's nearest pool rows, as many as keep the picks close and diverse."""

import numpy as np
from jaxtyping import Float

from tamis.selectors.picks import Picks, best, by_mass, check_similarity


def knn_uniform(
    similarity: Float[np.ndarray, "target pool"],
    *,
    n_examples: int,
    n_neighbors: int = 5000,
    alpha: float = 0.01,
    c: float = 5.0,
) -> Picks:
    """The pool rows with the most mass, where each of M targets gives 1/(K·M) to each of its K nearest rows.

    With d = 1 − S, a target's L = min(n_neighbors, pool) nearest sorted so that d₁ ≤ … ≤ d_L, K is the smallest k ≥ 1
    at which

        (α/c) · Σ_targets Σ_{j≤k} (d_{k+1} − d_j)  ≥  (1 − α)·M,

    else L: a large α asks for nearness, a small one for spread. Ties go to the lowest pool index. Rows that no target
    gives to follow in `doubly_greedy` order, from `n_supported` on. A smaller n_examples is a prefix of a larger one.

    Memory: 4 bytes for each target and neighbour. ValueError for similarities that are not finite, n_examples out of
    range, n_neighbors below 1, alpha outside ]0, 1[ or c not above 0.

    Source: TSDS, Liu et al., arXiv 2410.11303 (theorem 3.1, KNN-Uniform).

    >>> knn_uniform(np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]]), n_examples=2, n_neighbors=2).indices
    array([0, 1])
    """
    check_similarity(similarity, n_examples)
    check_knn(n_neighbors, alpha, c)
    n_target, n_pool = similarity.shape
    n_kept = min(n_neighbors, n_pool)
    nearest = np.empty((n_target, n_kept), np.int32)
    cost = np.zeros(n_kept - 1)  # of k = 1 … L−1, summed over targets
    for target, row in enumerate(similarity):
        nearest[target] = best(row, n_kept)
        distance = 1 - row[nearest[target]].astype(np.float64)
        cost += np.arange(1, n_kept) * distance[1:] - np.cumsum(distance)[:-1]
    reached = np.flatnonzero(alpha / c * cost >= (1 - alpha) * n_target)
    k = int(reached[0]) + 1 if len(reached) else n_kept
    n_givers = np.bincount(nearest[:, :k].ravel(), minlength=n_pool)
    return by_mass(n_givers / (k * n_target), similarity, n_examples)


def check_knn(n_neighbors: int, alpha: float, c: float) -> None:
    """ValueError unless the settings of TSDS make sense."""
    if n_neighbors < 1:
        raise ValueError(f"expected n_neighbors of at least 1, got {n_neighbors}")
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
    if not c > 0:
        raise ValueError(f"expected c above 0, got {c}")
