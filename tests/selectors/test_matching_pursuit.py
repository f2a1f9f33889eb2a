import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from slow import matching_pursuit as slow_pursuit

from tamis.selectors import matching_pursuit
from tamis.selectors.matching_pursuit import _Products, _Pursuit
from tamis.selectors.rows import mean


def combined(golden) -> np.ndarray:
    pairs = zip(golden.lr_weights, golden.pool_features, strict=True)
    return sum(w * f.astype(np.float64) for w, f in pairs).astype(np.float32)


def test_hand_worked() -> None:
    """Goal (2, 1): (1, 0) first, with coefficient 2; then (0, 1), and (I + I) x = (2, 1)."""
    picks = matching_pursuit(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.5]]), np.array([2.0, 1.0]), n_examples=2)
    assert picks.indices.tolist() == [1, 0]
    assert picks.scores.tolist() == [2.0, 1.0]
    assert picks.weights == pytest.approx([1.0, 0.5])


def test_a_pursuit_that_reached_its_goal_begins_anew() -> None:
    """Three rows along the goal: each alone reaches it, so each pursuit has one row, and a third of the weight."""
    rows = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    picks = matching_pursuit(rows, np.array([6.0, 0.0]), n_examples=3)
    assert picks.indices.tolist() == [0, 3, 2]
    assert picks.weights == pytest.approx([2 / 3, 1, 2])
    np.testing.assert_allclose(picks.weights @ rows[picks.indices], [6, 0])


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    n_pool=st.integers(1, 25),
    dim=st.integers(1, 12),
    ridge=st.sampled_from([1.0, 0.1, 3.0]),
    keeps=st.booleans(),
    n_ahead=st.integers(1, 5),
    data=st.data(),
)
def test_follows_the_rule(seed: int, n_pool: int, dim: int, ridge: float, keeps: bool, n_ahead: int, data) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_pool, dim)).astype(np.float32)
    goal = rng.standard_normal(dim) if seed % 2 else rows.mean(axis=0).astype(np.float64)
    n_examples = data.draw(st.integers(1, n_pool))
    expected, weights = slow_pursuit(rows, goal, n_examples, ridge=ridge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tamis.selectors.matching_pursuit"], "_N_AHEAD", n_ahead)
        memory = 1 << 20 if keeps else 0
        picks = matching_pursuit(rows, goal, n_examples=n_examples, ridge=ridge, memory_bytes=memory)
    assert picks.indices.tolist() == expected
    np.testing.assert_allclose(picks.weights, weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_follows_the_rule_on_correlated_rows_where_coefficients_turn_negative(monkeypatch, memory_bytes: int) -> None:
    drops = []
    drop = _Pursuit._drop
    monkeypatch.setattr(_Pursuit, "_drop", lambda self, place: drops.append(place) or drop(self, place))
    rng = np.random.default_rng(1)
    rows = np.hstack([rng.standard_normal((300, 60)) + 0.5, np.zeros((300, 100))])  # wide: products are kept
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    goal = rng.standard_normal(160) / 2 + rows[:20].sum(axis=0)
    for n_examples in (1, 2, 10, 60):
        expected, _ = slow_pursuit(rows, goal, n_examples, ridge=0.01)
        picks = matching_pursuit(rows, goal, n_examples=n_examples, ridge=0.01, memory_bytes=memory_bytes)
        assert picks.indices.tolist() == expected
    assert drops


def test_a_factor_that_lost_a_row_is_that_of_the_rows_left() -> None:
    rows = np.random.default_rng(0).standard_normal((12, 30)).astype(np.float32)
    pursuit = _Pursuit(_Products(rows, rows.mean(axis=0).astype(np.float64), 12, 1 << 20), np.ones(12, bool), 1.0)
    for row in range(12):
        products = rows[: row + 1].astype(np.float64) @ rows[row]
        pursuit.support, pursuit.scores = np.append(pursuit.support, row), np.append(pursuit.scores, 0.0)
        pursuit.x = np.append(pursuit.x, 1.0)
        pursuit._grow(products)
    for place in (3, 0, 9, 4):
        pursuit._drop(place)
    left = rows[pursuit.support].astype(np.float64)
    assert pursuit.support.tolist() == [1, 2, 4, 5, 7, 8, 9, 10]
    np.testing.assert_allclose(pursuit._factor @ pursuit._factor.T, left @ left.T + np.eye(8), rtol=1e-6, atol=1e-6)


def test_equal_rows_are_taken_by_index_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    row = rng.standard_normal(37).astype(np.float32)
    rows = np.tile(row, (101, 1))
    assert matching_pursuit(rows, row.astype(np.float64), n_examples=5).indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("goal", [np.zeros(3), np.array([-1.0, -1.0, -1.0])])
def test_a_goal_that_no_row_serves_still_gives_as_many_as_asked(goal: np.ndarray) -> None:
    rows = np.vstack([np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    picks = matching_pursuit(rows, goal, n_examples=4)
    assert sorted(picks.indices.tolist()) == [0, 1, 2, 3]
    assert np.isfinite(picks.weights).all()


def test_beside_a_true_non_negative_least_squares_solve() -> None:
    """Reported, not required to agree: without a ridge the pursuit comes near the optimum over all rows."""
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_normal((60, 20))).astype(np.float32)
    goal = rows[:10].mean(axis=0).astype(np.float64)
    best, residual = nnls(rows.T.astype(np.float64), goal)
    picks = matching_pursuit(rows, goal, n_examples=20, ridge=0.0, tolerance=0.0)
    reached = np.linalg.norm(goal - picks.weights @ rows[picks.indices])
    print(f"NNLS {residual:.2e} with {(best > 0).sum()} rows; pursuit {reached:.2e} with {len(picks)}")
    assert residual <= reached + 1e-9  # nothing does better than the optimum
    assert reached < np.linalg.norm(goal)


def test_picks_what_the_published_tagcos_picks_in_each_cluster(golden) -> None:
    features = combined(golden)
    for cluster, expected in golden.picks["tagcos_omp"].items():
        members = np.flatnonzero(golden.clusters == int(cluster))
        rows = features[members]
        picks = matching_pursuit(rows, mean(rows), n_examples=int(0.05 * len(members)))
        assert sorted(members[picks.indices].tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"goal": np.zeros(4)}, r"finite goal of 3 numbers, got shape \(4,\)"),
        ({"goal": np.array([0, np.nan, 0])}, "finite goal"),
        ({"ridge": -1.0}, "ridge and tolerance from 0 up, got -1.0"),
        ({"n_examples": 6}, "from 1 to 5"),
        ({"features": np.full((5, 3), np.inf)}, r"finite features, got inf at \[0, 0\]"),
        ({"features": np.zeros((5, 0))}, "at least one of each"),
    ],
)
def test_refuses(given, message: str) -> None:
    good = {"features": np.eye(5, 3), "goal": np.ones(3), "n_examples": 2}
    with pytest.raises(ValueError, match=message):
        matching_pursuit(**(good | given))
