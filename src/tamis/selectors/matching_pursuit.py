"""Orthogonal matching pursuit: the few rows whose non-negative sum comes nearest to a goal."""

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.linalg.lapack import dtrtrs

from tamis.selectors.picks import Picks
from tamis.selectors.rows import Part, Rows, blocks, check_features, dot

_N_AHEAD = 16  # a product with 16 rows costs what 3 products with one row cost
_NEAR = 1e-5  # correlations this near to the best, relative to the largest possible, are computed again in float64


def matching_pursuit(
    features: Rows,
    goal: Float[np.ndarray, " dim"],
    *,
    n_examples: int,
    ridge: float = 1.0,
    tolerance: float = 1e-4,
    memory_bytes: int = 1 << 30,
) -> Picks:
    """Rows taken one by one, each the one most correlated with what the others leave of the goal.

    With rows a_i of `features`, goal b, support S and residual r = b − A_Sᵀx: take the row with the largest ⟨a_i, r⟩,
    and solve (A_S A_Sᵀ + ridge·I) x = A_S b; the first row's coefficient is ⟨a, b⟩/⟨a, a⟩, without the ridge. The most
    negative coefficient is dropped and the rest solved again, until none is negative.

    A pursuit ends when it has what is asked for, at ‖r‖/‖b‖ ≤ tolerance, when the best row is in S already, or when the
    newest row is the one dropped; also, so that it surely ends, when dropping leads back to an earlier S. A row alone
    is not dropped. Then the pursuit begins anew on the rows left, with the same goal, until n_examples are found.

    Picks come pursuit by pursuit, each in the order of taking; scores are ⟨a_i, r⟩ at that moment. Weights are x, times
    the pursuit's share of the picks: Σ weight·row, the mean of what the pursuits reached, approximates the goal.
    Ties go to the lowest pool index. A smaller n_examples is a prefix of a larger one unless a row was dropped.

    Memory: `memory_bytes` for products of rows, at most, and 8 bytes for each pair of rows in one pursuit.
    ValueError for features or a goal that are not finite, shapes that differ, n_examples out of range, a ridge or a
    tolerance below 0.

    Source: TAGCOS, Zhang et al., arXiv 2407.15235, whose code follows GRAD-MATCH, arXiv 2103.00123.

    >>> matching_pursuit(np.eye(3, dtype=np.float32), np.array([0.0, 2.0, 1.0]), n_examples=2).indices
    array([1, 2])
    """
    check_features(features, n_examples)
    b = np.asarray(goal, np.float64)
    if b.shape != (features.shape[1],) or not np.isfinite(b).all():
        raise ValueError(f"expected a finite goal of {features.shape[1]} numbers, got shape {b.shape}")
    if not (ridge >= 0 and tolerance >= 0):
        raise ValueError(f"expected ridge and tolerance from 0 up, got {ridge} and {tolerance}")
    products = _Products(features, b, n_examples, memory_bytes)
    is_free = np.ones(features.shape[0], bool)
    indices, scores, weights = [], [], []
    n_left = n_examples
    while n_left:
        pursuit = _Pursuit(products, is_free, ridge)
        pursuit.run(n_left, tolerance)
        indices.append(pursuit.support)
        scores.append(pursuit.scores)
        weights.append(pursuit.x * len(pursuit.x) / n_examples)
        is_free[pursuit.support] = False
        n_left -= len(pursuit.x)
    return Picks(np.concatenate(indices), np.concatenate(scores), np.concatenate(weights))


class _Products:
    """Products of rows with the goal and with each other: the dear part, where all features are read.

    While the support is small against dim, the products of all rows with a row of the support are kept, and A r is
    A b − Σ x_j A a_j without reading a feature. The columns A a_j of several likely next rows are computed at once:
    those with the highest correlation now. It costs little more to read the features for many columns than for one,
    and most of them are wanted later. In little memory, or for a support large against dim, A r is computed as such.
    """

    def __init__(self, features: Rows, goal: Float64[np.ndarray, " dim"], n_examples: int, memory_bytes: int) -> None:
        n_pool, dim = features.shape
        self.features, self.goal = features, goal
        self.with_goal = dot(features, goal.astype(np.float32))
        self.largest = float(np.linalg.norm(goal)) * _longest(features)
        n_columns = min(n_pool, 2 * n_examples + _N_AHEAD)
        self.keeps = n_columns <= dim and 4 * n_pool * n_columns <= memory_bytes
        self._columns = np.empty((n_columns if self.keeps else 0, n_pool), np.float32)
        self._place: dict[int, int] = {}
        self.n_computed = 0

    def residual(
        self, support: Int64[np.ndarray, " row"], x: Float64[np.ndarray, " row"]
    ) -> Float64[np.ndarray, " dim"]:
        """b − A_Sᵀx."""
        left: np.ndarray = self.goal - x @ self.rows(support)
        return left

    def rows(self, positions: Int64[np.ndarray, " row"]) -> Float32[np.ndarray, "row dim"]:
        """Some rows of the features."""
        return np.asarray(self.features[positions], np.float32)

    def correlations(
        self, support: Int64[np.ndarray, " row"], x: Float64[np.ndarray, " row"]
    ) -> Float32[np.ndarray, " pool"]:
        """⟨a_i, r⟩ of all rows."""
        if not len(support):
            return self.with_goal.copy()
        if not self.keeps:
            return dot(self.features, self.residual(support, x).astype(np.float32))
        coefficients = np.zeros(len(self._place), np.float32)
        coefficients[[self._place[i] for i in support.tolist()]] = x
        left: np.ndarray = self.with_goal - coefficients @ self._columns[: len(self._place)]
        return left

    def with_row(
        self, new: int, support: Int64[np.ndarray, " row"], correlations: Float32[np.ndarray, " pool"]
    ) -> Float64[np.ndarray, " row_and_new"]:
        """⟨a_i, a_new⟩ of the rows of the support, and of the new row itself as the last."""
        wanted = np.append(support, new)
        if not self.keeps:
            rows = self.rows(wanted).astype(np.float64)
            products: np.ndarray = rows @ rows[-1]
            return products
        if new not in self._place:
            if len(self._place) == len(self._columns):
                self._forget_all_but(support)
            self._compute(new, correlations)
        kept: np.ndarray = self._columns[self._place[new], wanted].astype(np.float64)
        return kept

    def _forget_all_but(self, support: Int64[np.ndarray, " row"]) -> None:
        places = [self._place[row] for row in support.tolist()]
        self._columns[: len(places)] = self._columns[places]
        self._place = {row: place for place, row in enumerate(support.tolist())}

    def _compute(self, new: int, correlations: Float32[np.ndarray, " pool"]) -> None:
        n_room = len(self._columns) - len(self._place)
        likely = correlations.copy()
        likely[list(self._place)] = -np.inf
        likely[new] = np.inf
        n_ahead = min(_N_AHEAD, n_room)
        ahead = np.argpartition(-likely, n_ahead - 1)[:n_ahead] if n_ahead < len(likely) else np.arange(len(likely))
        ahead = ahead[likely[ahead] > -np.inf]
        self._columns[len(self._place) : len(self._place) + len(ahead)] = dot(self.features, self.rows(ahead).T).T
        self._place |= {row: len(self._place) + k for k, row in enumerate(ahead.tolist())}
        self.n_computed += len(ahead)


class _Pursuit:
    """One pursuit: its support, coefficients x, and the Cholesky factor of A_S A_Sᵀ + ridge·I, which grows."""

    def __init__(self, products: _Products, is_free: np.ndarray, ridge: float) -> None:
        self._products, self._taken, self._ridge = products, np.flatnonzero(~is_free), ridge
        self.support = np.empty(0, np.int64)
        self.scores = np.empty(0)
        self.x = np.empty(0)
        self._factor = np.zeros((0, 0))
        self._seen: set[bytes] = set()

    def run(self, n_asked: int, tolerance: float) -> None:
        """Take rows until the pursuit ends; at least one."""
        goal_length = float(np.linalg.norm(self._products.goal))
        while len(self.support) < n_asked:
            new, score = self._best()
            if new in self.support:
                return
            is_kept = self._add(new, score)
            if not is_kept or self._distance(goal_length) <= tolerance * goal_length:
                return

    def _distance(self, goal_length: float) -> float:
        """‖r‖; by ‖r‖² = ‖b‖² − xᵀA_S b − ridge·‖x‖², which holds for solutions, where rounding does not matter."""
        squared = goal_length**2 - self.x @ self._with_goal() - self._ridge * self.x @ self.x
        if len(self.x) > 1 and squared > _NEAR * goal_length**2:
            return float(np.sqrt(squared))
        return float(np.linalg.norm(self._products.residual(self.support, self.x)))

    def _best(self) -> tuple[int, float]:
        """The row with the largest ⟨a_i, r⟩; near ties are decided in float64, so that equal rows tie."""
        self._correlations = self._products.correlations(self.support, self.x)
        self._correlations[self._taken] = -np.inf
        highest = self._correlations.max()
        near = np.flatnonzero(self._correlations >= highest - _NEAR * self._products.largest)
        if len(near) == 1:
            return int(near[0]), float(highest)
        residual = self._products.residual(self.support, self.x)
        # They may be many, all of them where the goal is reached or 0
        some = blocks(Part(self._products.features, near))
        exact = np.concatenate([(rows * residual).sum(axis=1) for _, rows in some])
        return int(near[exact.argmax()]), float(exact.max())

    def _add(self, new: int, score: float) -> bool:
        """Take a row and solve; False where that is the row that had to go, or the pursuit goes round in circles."""
        n_before = len(self.support)
        products = self._products.with_row(new, self.support, self._correlations)
        self.support = np.append(self.support, new)
        self.scores = np.append(self.scores, score)
        self._grow(products)
        if len(self.support) == 1:
            own = products[0]
            self.x = self._products.goal @ self._products.rows(self.support).T / own if own > 0 else np.zeros(1)
            return True
        while True:
            half, _ = dtrtrs(self._factor, self._with_goal(), lower=1)
            self.x, _ = dtrtrs(self._factor, half, lower=1, trans=1)
            if (self.x >= 0).all() or len(self.x) == 1:
                break
            self._drop(int(self.x.argmin()))
        return bool(self.support[-1] == new) and not self._came_back(n_before)

    def _came_back(self, n_before: int) -> bool:
        """Whether rows were dropped, and this is the support of an earlier time."""
        support = np.sort(self.support).tobytes()
        is_seen = support in self._seen
        if len(self.support) <= n_before:  # not grown: some were dropped
            self._seen.add(support)
        return is_seen

    def _with_goal(self) -> Float64[np.ndarray, " row"]:
        return self._products.with_goal[self.support].astype(np.float64)

    def _grow(self, products: Float64[np.ndarray, " row_and_new"]) -> None:
        n = len(products) - 1
        side = dtrtrs(self._factor, products[:-1], lower=1)[0] if n else np.empty(0)
        # Positive but for rounding, which may say otherwise of a row that is in the span of the others (ridge 0)
        corner = max(products[-1] + self._ridge - side @ side, np.finfo(np.float32).eps * products[-1])
        grown = np.zeros((n + 1, n + 1), order="F")
        grown[:n, :n] = self._factor
        grown[n, :n] = side
        grown[n, n] = np.sqrt(corner) or 1.0
        self._factor = grown

    def _drop(self, place: int) -> None:
        """Take row and column `place` out of the factored matrix: what stood below it gets a rank-one update."""
        below = self._factor[place + 1 :, place].copy()
        self._factor = np.asfortranarray(np.delete(np.delete(self._factor, place, 0), place, 1))
        block = self._factor[place:, place:]
        for k in range(len(below)):
            old = block[k, k]
            block[k, k] = np.hypot(old, below[k])
            cosine, sine = block[k, k] / old, below[k] / old
            block[k + 1 :, k] = (block[k + 1 :, k] + sine * below[k + 1 :]) / cosine
            below[k + 1 :] = cosine * below[k + 1 :] - sine * block[k + 1 :, k]
        self.support = np.delete(self.support, place)
        self.scores = np.delete(self.scores, place)
        self.x = np.delete(self.x, place)


def _longest(features: Rows) -> float:
    return float(max(np.sqrt(np.einsum("rd,rd->r", rows, rows).max()) for _, rows in blocks(features)))
