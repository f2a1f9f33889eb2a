"""The selectors as one writes them with NumPy, scikit-learn and POT, or as the published code does: no trick of ours.

Each takes what its namesake in `tamis.selectors` takes, and gives the picks alone.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import ot
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

_BLOCK_ROWS = 1000


def top_k(similarity: np.ndarray, groups: Sequence[int], n_examples: int) -> np.ndarray:
    """The mean of each group, their max, sorted."""
    labels = np.array(groups)
    means = [similarity[labels == label].mean(axis=0) for label in np.unique(labels)]
    return np.argsort(-np.max(means, axis=0))[:n_examples]


def doubly_greedy(similarity: np.ndarray, n_examples: int) -> np.ndarray:
    """The max, sorted."""
    return np.argsort(-similarity.max(axis=0))[:n_examples]


def round_robin(similarity: np.ndarray, n_examples: int) -> np.ndarray:
    """Every target's row is sorted whole; then a loop that steps over what is taken."""
    order = np.argsort(-similarity, axis=1).tolist()
    taken = [False] * similarity.shape[1]
    places = [0] * len(order)
    picks = []
    for rank in range(n_examples):
        target = rank % len(order)
        row, place = order[target], places[target]
        while taken[row[place]]:
            place += 1
        taken[row[place]] = True
        picks.append(row[place])
        places[target] = place + 1
    return np.array(picks)


def unbalanced_transport(similarity: np.ndarray, n_examples: int) -> np.ndarray:
    """POT, with the targets' marginal held exactly, and the tolerance of ours."""
    n_target, n_pool = similarity.shape
    plan = ot.unbalanced.sinkhorn_unbalanced(
        np.full(n_target, 1 / n_target),
        np.full(n_pool, 1 / n_pool),
        (1 - similarity.astype(np.float64)) / 2,
        reg=0.01,
        reg_m=(math.inf, 1e-4),
        stopThr=1e-10,
    )
    return np.argsort(-plan.sum(axis=0))[:n_examples]


def knn_uniform(similarity: np.ndarray, n_examples: int, *, alpha: float = 0.01, c: float = 5.0) -> np.ndarray:
    """Every target's row is sorted whole; then the rule."""
    n_target, n_pool = similarity.shape
    nearest = np.argsort(-similarity, axis=1)[:, :5000]
    distance = 1 - np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
    k = np.arange(1, nearest.shape[1])
    cost = (k * distance[:, 1:] - np.cumsum(distance, axis=1)[:, :-1]).sum(axis=0)
    is_reached = alpha / c * cost >= (1 - alpha) * n_target
    n_kept = int(k[is_reached.argmax()]) if is_reached.any() else nearest.shape[1]
    mass = np.bincount(nearest[:, :n_kept].ravel(), minlength=n_pool) / (n_kept * n_target)
    return _by_mass(mass, similarity, n_examples)


def knn_kde(
    similarity: np.ndarray, features: np.ndarray, n_examples: int, *, alpha: float = 0.01, c: float = 5.0
) -> np.ndarray:
    """Every target's row is sorted whole; densities from all pairs, block by block; the heap of the published code."""
    n_target, n_pool = similarity.shape
    n_neighbors = min(5000, n_pool // 10)
    nearest = np.argsort(-similarity, axis=1)[:, :n_neighbors]
    distance = 1 - np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
    union, places = np.unique(nearest, return_inverse=True)
    density = kernel_density(features[union], min(1000, n_pool // 10))
    inverse = 1 / density[places.reshape(nearest.shape)]
    counts = np.cumsum(inverse, axis=1)
    spent = np.cumsum(distance * inverse, axis=1)
    heap = [(counts[target, 0], 0, target) for target in range(n_target)]
    heapq.heapify(heap)
    last, cost, total, count = [0] * n_target, [0.0] * n_target, 0.0, 0.0
    while heap:
        count, k, target = heapq.heappop(heap)
        now = distance[target, k + 1] * count - spent[target, k]
        total += now - cost[target]
        cost[target] = now
        if alpha / c * total >= (1 - alpha) * n_target:
            break
        last[target] = k
        if k < n_neighbors - 2:
            heapq.heappush(heap, (counts[target, k + 1], k + 1, target))
    mass = np.zeros(n_pool)
    for target, k in enumerate(last):
        given = np.minimum(inverse[target, : k + 1] / count, 1)
        mass[nearest[target, : k + 1]] += given / n_target
        mass[nearest[target, k + 1]] += max(1 - given.sum(), 0) / n_target
    return _by_mass(mass, similarity, n_examples)


def kernel_density(features: np.ndarray, n_neighbors: int, bandwidth: float = 0.75) -> np.ndarray:
    """Each block of rows times all rows, and of each row the nearest."""
    density = []
    for start in range(0, len(features), _BLOCK_ROWS):
        cosine = features[start : start + _BLOCK_ROWS] @ features.T
        np.fill_diagonal(cosine[:, start:], 1)  # rounding would break the ties of rows that have no neighbour
        nearest = np.partition(cosine, len(features) - n_neighbors, axis=1)[:, -n_neighbors:]
        density.append(np.maximum(1 - 2 / bandwidth**2 * (1 - nearest), 0).sum(axis=1, dtype=np.float64))
    return np.concatenate(density)


def _by_mass(mass: np.ndarray, similarity: np.ndarray, n_examples: int) -> np.ndarray:
    ranked = np.argsort(-mass, kind="stable")[: min(n_examples, np.count_nonzero(mass))]
    if len(ranked) == n_examples:
        return ranked
    highest = similarity.max(axis=0)
    highest[mass > 0] = -np.inf
    return np.concatenate([ranked, np.argsort(-highest, kind="stable")[: n_examples - len(ranked)]])


def matching_pursuit(features: np.ndarray, goal: np.ndarray, n_examples: int) -> np.ndarray:
    """Pursuits on the rows that are left, until enough are found."""
    is_free = np.ones(len(features), bool)
    picks: list[int] = []
    while len(picks) < n_examples:
        picks += _pursue(features, goal, is_free, n_examples - len(picks))
        is_free[picks] = False
    return np.array(picks)


def _pursue(features: np.ndarray, goal: np.ndarray, is_free: np.ndarray, n_asked: int, ridge: float = 1.0) -> list[int]:
    """All rows times the residual at every step, and the equations solved anew: as TAGCOS's code does."""
    support: list[int] = []
    seen: list[list[int]] = []
    residual = goal
    while len(support) < n_asked:
        correlations = features @ residual.astype(np.float32)
        correlations[~is_free] = -np.inf
        best = int(correlations.argmax())
        if best in support:
            break
        support.append(best)
        n_before = len(support)
        while True:
            rows = features[support]
            if n_before == 1:
                x = rows @ goal / np.vdot(rows, rows)
                break
            x = np.linalg.solve(rows @ rows.T + ridge * np.eye(len(rows)), rows @ goal)
            if (x >= 0).all() or len(x) == 1:
                break
            del support[int(x.argmin())]
        if support[-1] != best or sorted(support) in seen:
            break
        if len(support) < n_before:
            seen.append(sorted(support))
        residual = goal - x @ rows
        if np.linalg.norm(residual) <= 1e-4 * np.linalg.norm(goal):
            break
    return support


def tagcos(features: np.ndarray, n_examples: int, n_clusters: int) -> np.ndarray:
    """k-means with the settings of ours, then the plain pursuit of each cluster's mean."""
    labels = KMeans(n_clusters, n_init=1, random_state=0).fit(features).labels_
    exact = n_examples * np.bincount(labels) / len(labels)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: n_examples - shares.sum()]] += 1
    picks = []
    for cluster in np.flatnonzero(shares):
        members = np.flatnonzero(labels == cluster)
        rows = features[members]
        picks.append(members[matching_pursuit(rows, rows.mean(axis=0, dtype=np.float64), shares[cluster])])
    return np.concatenate(picks)


def k_center(features: np.ndarray, n_examples: int) -> np.ndarray:
    """The distance of all rows to the newest pick, at every step."""
    pick = int(np.random.default_rng(0).integers(len(features)))
    nearest = np.full(len(features), np.inf, np.float32)
    picks = []
    for _ in range(n_examples):
        picks.append(pick)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[pick], axis=1))
        pick = int(nearest.argmax())
    return np.array(picks)


def herding(features: np.ndarray, n_examples: int) -> np.ndarray:
    """Welling's weights: w grows by the mean and shrinks by each pick; all rows times w at every step."""
    mean = features.mean(axis=0, dtype=np.float64)
    w = mean.copy()
    picks: list[int] = []
    for _ in range(n_examples):
        gain = features @ w.astype(np.float32)
        gain[picks] = -np.inf
        picks.append(int(gain.argmax()))
        w += mean - features[picks[-1]]
    return np.array(picks)


def facility_location(features: np.ndarray, n_examples: int, n_rows: int) -> np.ndarray:
    """scikit-learn's neighbours, then greedy with every gain anew at each step.

    Of the objective only the first n_rows are summed: all work is proportional to that number.
    """
    finder = NearestNeighbors(n_neighbors=min(256, len(features)), algorithm="brute", metric="cosine").fit(features)
    distance, nearest = finder.kneighbors(features[:n_rows])
    similarity = np.maximum(1 - distance, 0)
    covered = np.zeros((n_rows, 1), similarity.dtype)
    columns = nearest.ravel()
    picks: list[int] = []
    for _ in range(n_examples):
        added = np.maximum(similarity - covered, 0)
        gain = np.bincount(columns, added.ravel(), minlength=len(features))
        gain[picks] = -1
        pick = int(gain.argmax())
        picks.append(pick)
        row, place = np.nonzero(nearest == pick)
        covered[row, 0] = np.maximum(covered[row, 0], similarity[row, place])
    return np.array(picks)


def random(n_pool: int, n_examples: int) -> np.ndarray:
    """The head of a permutation."""
    return np.random.default_rng(0).permutation(n_pool)[:n_examples]


def balanced(n_pool: int, n_examples: int, sources: Sequence[str]) -> np.ndarray:
    """A permutation dealt out in a loop: every source's first row, then every source's second, …"""
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    n_seen: defaultdict[str, int] = defaultdict(int)
    for row in np.random.default_rng(0).permutation(n_pool).tolist():
        source = sources[row]
        rounds[n_seen[source]].append(row)
        n_seen[source] += 1
    return np.array([row for number in range(len(rounds)) for row in rounds[number]][:n_examples])
