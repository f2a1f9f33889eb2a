"""Direct, slow transcriptions of the rules of design and papers, in float64 and plain Python."""

import heapq

import numpy as np


def knn_uniform_mass(
    similarity: np.ndarray, n_neighbors: int = 5000, alpha: float = 0.01, c: float = 5.0
) -> np.ndarray:
    n_target, n_pool = similarity.shape
    n_kept = min(n_neighbors, n_pool)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :n_kept]
    d = [[1 - float(similarity[t, j]) for j in order[t]] for t in range(n_target)]
    k_found = n_kept
    for k in range(1, n_kept):
        cost = sum(d[t][k] - d[t][j] for t in range(n_target) for j in range(k))
        if alpha / c * cost >= (1 - alpha) * n_target:
            k_found = k
            break
    mass = np.zeros(n_pool)
    for t in range(n_target):
        for j in order[t][:k_found]:
            mass[j] += 1
    return mass / (k_found * n_target)


def knn_kde_mass(
    similarity: np.ndarray,
    pool_features: list[np.ndarray],
    lr_weights: list[float],
    n_neighbors: int = 5000,
    n_density_neighbors: int = 1000,
    bandwidth: float = 0.75,
    alpha: float = 0.01,
    c: float = 5.0,
) -> np.ndarray:
    n_target, n_pool = similarity.shape
    n_kept = max(2, min(n_neighbors, n_pool // 10))
    n_around = min(n_density_neighbors, max(1, n_pool // 10))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :n_kept]
    d = 1 - np.take_along_axis(similarity, order, axis=1).astype(np.float64)
    union = sorted({int(j) for row in order for j in row})
    rho = {}
    for i in union:
        kernel = []
        for j in union:
            cosine = sum(
                w * float(f[i].astype(np.float64) @ f[j]) for w, f in zip(lr_weights, pool_features, strict=True)
            )
            distance = 0.0 if i == j else 1 - cosine
            kernel.append(max(0.0, 1 - 2 * distance / bandwidth**2))
        rho[i] = sum(sorted(kernel, reverse=True)[:n_around])
    r = [[rho[int(j)] for j in row] for row in order]
    heap = [(1 / r[t][0], 0, t) for t in range(n_target)]
    heapq.heapify(heap)
    last, cost, s = [0] * n_target, [0.0] * n_target, 0.0
    while heap:
        s, k, t = heapq.heappop(heap)
        cost[t] = d[t][k + 1] * s - sum(d[t][i] / r[t][i] for i in range(k + 1))
        if alpha / c * sum(cost) >= (1 - alpha) * n_target:
            break
        last[t] = k
        if k < n_kept - 2:
            heapq.heappush(heap, (s + 1 / r[t][k + 1], k + 1, t))
    mass = np.zeros(n_pool)
    for t in range(n_target):
        left = 1.0
        for k in range(last[t] + 1):
            given = min(1 / (s * r[t][k]), 1.0)
            mass[order[t][k]] += given / n_target
            left -= given
        mass[order[t][last[t] + 1]] += max(left, 0.0) / n_target
    return mass


def pursue(
    rows: np.ndarray, goal: np.ndarray, n_asked: int, ridge: float, tolerance: float
) -> tuple[list[int], np.ndarray]:
    """One pursuit over rows [n, dim] in float64: support and coefficients."""
    support: list[int] = []
    x = np.zeros(0)
    seen: list[list[int]] = []
    while len(support) < n_asked:
        residual = goal - x @ rows[support]
        best = int(np.argmax((rows * residual).sum(axis=1)))
        if best in support:
            break
        support.append(best)
        if len(support) == 1:
            own = rows[best] @ rows[best]
            x = np.array([rows[best] @ goal / own if own > 0 else 0.0])
        else:
            n_before = len(support)
            while True:
                a = rows[support]
                x = np.linalg.solve(a @ a.T + ridge * np.eye(len(support)), a @ goal)
                if (x >= 0).all() or len(x) == 1:
                    break
                del support[int(np.argmin(x))]
            if support[-1] != best or sorted(support) in seen:
                break
            if len(support) < n_before:  # some were dropped
                seen.append(sorted(support))
        if np.linalg.norm(goal - x @ rows[support]) <= tolerance * np.linalg.norm(goal):
            break
    return support, x


def matching_pursuit(
    rows: np.ndarray, goal: np.ndarray, n_examples: int, ridge: float = 1.0, tolerance: float = 1e-4
) -> tuple[list[int], list[float]]:
    rows, goal = rows.astype(np.float64), np.asarray(goal, np.float64)
    left = list(range(len(rows)))
    picks: list[int] = []
    weights: list[float] = []
    while len(picks) < n_examples:
        support, x = pursue(rows[left], goal, n_examples - len(picks), ridge, tolerance)
        picks += [left[i] for i in support]
        weights += (x * len(x) / n_examples).tolist()
        left = [row for row in left if row not in picks]
    return picks, weights
