"""TSDS with density: like `knn_uniform`, but a crowd of near-duplicates shares the mass of one row."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

from tamis.selectors.density import density
from tamis.selectors.knn_uniform import check_knn
from tamis.selectors.picks import Picks, best, by_mass, check_similarity
from tamis.selectors.rows import Rows

_ROUNDING = 1e-9  # a target that has given all but this has given all


def knn_kde(
    similarity: Float[np.ndarray, "target pool"],
    *,
    n_examples: int,
    pool_features: Sequence[Rows],
    lr_weights: Sequence[float] | Float[np.ndarray, " checkpoint"],
    n_neighbors: int = 5000,
    n_density_neighbors: int = 1000,
    bandwidth: float = 0.75,
    alpha: float = 0.01,
    c: float = 5.0,
    memory_bytes: int = 1 << 30,
) -> Picks:
    """The pool rows with the most mass, where each of M targets gives to its nearest rows in inverse proportion to ρ.

    d = 1 − S. Candidates are each target's L = min(n_neighbors, pool/10) nearest, d₁ ≤ … ≤ d_L. Their densities ρ are
    taken among the union of all targets' candidates, over min(n_density_neighbors, pool/10) rows, from `pool_features`:
    unit rows `[pool, dim]` of each checkpoint, combined by `lr_weights` (see `tamis.selectors.density`).

    A target that goes as far as its k-th neighbour has the count s_k = Σ_{i≤k} 1/ρ_i and the cost
    s_k·d_{k+1} − Σ_{i≤k} d_i/ρ_i. In order of their counts (ties: lower k, then lower target) neighbours are accepted
    until (α/c)·Σ_targets cost ≥ (1 − α)·M; each target's nearest is accepted always, its L-th never. With s the count
    at that point an accepted row gets 1/(M·s·ρ), at most 1/M, and what is left of a target's 1/M goes to its next
    neighbour.

    Rows that no target gives to follow in `doubly_greedy` order, from `n_supported` on. A smaller n_examples is a
    prefix of a larger one. Densities are float32 sums: rows whose masses agree to 1e-6 may change places.

    Departures: L is at least 2 (of a pool of one row, that row is picked).

    Memory: some 100 bytes for each target and neighbour, and `memory_bytes` for blocks of features. ValueError for
    similarities that are not finite, features that do not fit them, n_examples out of range, or settings that make no
    sense.

    Source: TSDS, Liu et al., arXiv 2410.11303 (algorithm KNN-KDE).

    >>> s = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]])
    >>> knn_kde(s, n_examples=2, pool_features=[np.eye(3, dtype=np.float32)], lr_weights=[1.0]).indices
    array([0, 1])
    """
    check_similarity(similarity, n_examples)
    check_knn(min(n_neighbors, n_density_neighbors), alpha, c)
    n_target, n_pool = similarity.shape
    weights = np.asarray(lr_weights, np.float64)
    if not pool_features or len(pool_features) != len(weights):
        raise ValueError(f"expected as many lr_weights as features, got {len(weights)} and {len(pool_features)}")
    for rows in pool_features:
        if rows.shape[0] != n_pool:
            raise ValueError(f"expected features of {n_pool} pool rows, got {rows.shape[0]}")
    if not bandwidth > 0:
        raise ValueError(f"expected bandwidth above 0, got {bandwidth}")
    if n_pool == 1:
        return Picks(np.zeros(1, np.int64), np.ones(1), n_supported=1)
    n_kept = max(2, min(n_neighbors, n_pool // 10))
    nearest = np.array([best(row, n_kept) for row in similarity])
    distance = 1 - np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
    union, places = np.unique(nearest, return_inverse=True)
    n_around = min(n_density_neighbors, max(1, n_pool // 10))
    rho = density(pool_features, weights, union, n_around, bandwidth, memory_bytes)[places.reshape(nearest.shape)]
    n_accepted, count = _accept(distance, rho, alpha, c)
    given = np.where(np.arange(n_kept) < n_accepted[:, None], np.minimum(1 / (count * rho), 1), 0)
    left = 1 - given.sum(axis=1)
    given[np.arange(n_target), n_accepted] = np.where(left > _ROUNDING, left, 0)
    mass = np.bincount(nearest.ravel(), given.ravel() / n_target, minlength=n_pool)
    return by_mass(mass, similarity, n_examples)


def _accept(
    distance: Float64[np.ndarray, "target neighbor"],
    rho: Float64[np.ndarray, "target neighbor"],
    alpha: float,
    c: float,
) -> tuple[Int64[np.ndarray, " target"], float]:
    """How many neighbours of each target are accepted, and the count at the end.

    A heap of (count, k, target) would give them up in the order of these tuples, because counts grow with k.
    """
    n_target, n_kept = distance.shape
    count = np.cumsum(1 / rho, axis=1)[:, :-1]
    cost = count * distance[:, 1:] - np.cumsum(distance / rho, axis=1)[:, :-1]
    target, k = np.divmod(np.arange(count.size), n_kept - 1)
    order = np.lexsort((target, k, count.ravel()))
    total = np.cumsum(np.diff(cost, axis=1, prepend=0).ravel()[order])
    reached = np.flatnonzero(alpha / c * total >= (1 - alpha) * n_target)
    stop = int(reached[0]) if len(reached) else len(order)
    n_accepted = np.bincount(target[order[:stop]], minlength=n_target)
    return np.maximum(n_accepted, 1), float(count.ravel()[order[min(stop, len(order) - 1)]])
