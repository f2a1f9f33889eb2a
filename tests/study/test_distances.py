"""Distances of subsets, by hand, by SciPy's assignment and by brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tamis.selectors import doubly_greedy, round_robin, top_k
from tamis.study.distances import Distances, mean_nearest, objective, of_subset, wasserstein

SIMILARITY = np.array([[0.9, 0.1, 0.5, -0.2], [0.3, 0.8, 0.5, 0.0]], np.float32)


def test_mean_nearest_by_hand() -> None:
    assert mean_nearest(SIMILARITY) == pytest.approx((0.1 + 0.2) / 2)
    assert mean_nearest(SIMILARITY[:, 2:]) == pytest.approx(0.5)


def test_wasserstein_of_equal_numbers_is_an_assignment() -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (6, 6)).astype(np.float32)
    rows, columns = linear_sum_assignment(1 - similarity)
    best = min(np.mean([1 - similarity[k, p[k]] for k in range(6)]) for p in itertools.permutations(range(6)))
    assert wasserstein(similarity) == pytest.approx(best, rel=1e-6)
    assert wasserstein(similarity) == pytest.approx(float((1 - similarity)[rows, columns].mean()), rel=1e-6)


def test_wasserstein_by_weights() -> None:
    # All mass of the subset on one row: every target has to go there
    assert wasserstein(SIMILARITY, np.array([0.0, 0.0, 2.0, 0.0])) == pytest.approx(0.5)
    # 3/4 on the first row, 1/4 on the second: the second target gives half of its mass to each
    cost = (0.5 * 0.1) + (0.25 * 0.7) + (0.25 * 0.2)
    assert wasserstein(SIMILARITY[:, :2], np.array([3.0, 1.0])) == pytest.approx(cost)


def test_what_is_too_large_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.study.distances._MOST_ENTRIES", 7)
    assert math.isnan(wasserstein(SIMILARITY))
    assert of_subset(SIMILARITY, [0, 1]).wasserstein > 0
    assert of_subset(SIMILARITY, []) == Distances() or math.isnan(of_subset(SIMILARITY, []).mean_nearest)


@pytest.mark.parametrize(("name", "selector"), [("top_k", top_k), ("doubly_greedy", doubly_greedy)])
def test_a_selector_minimises_its_own_objective_over_all_subsets(name: str, selector: object) -> None:
    """Of all subsets of this size none has a smaller mean 1 − score."""
    similarity = np.random.default_rng(1).uniform(-1, 1, (3, 7)).astype(np.float32)
    of_row = similarity.mean(0) if name == "top_k" else similarity.max(0)
    picks = selector(similarity, n_examples=3)  # type: ignore[operator]
    found = objective(name, picks.scores, similarity[:, picks.indices])
    assert found == pytest.approx(
        min(np.mean(1 - of_row[list(c)]) for c in itertools.combinations(range(7), 3)), rel=1e-6
    )


def test_round_robin_is_an_assignment_no_better_than_the_best() -> None:
    similarity = np.random.default_rng(2).uniform(-1, 1, (4, 9)).astype(np.float32)
    picks = round_robin(similarity, n_examples=4)
    found = objective("round_robin", picks.scores, similarity[:, picks.indices])
    rows, columns = linear_sum_assignment(1 - similarity)
    assert float((1 - similarity)[rows, columns].mean()) <= found + 1e-7
    assert wasserstein(similarity[:, picks.indices]) <= found + 1e-7


def test_selectors_by_mass_and_others() -> None:
    mass = np.array([0.5, 0.0, 0.5, 0.0])
    expected = wasserstein(SIMILARITY[:, [0, 2]], np.array([0.5, 0.5]))
    assert objective("unbalanced_transport", mass, SIMILARITY) == pytest.approx(expected)
    assert objective("knn_kde", mass, SIMILARITY) == pytest.approx(expected)
    assert math.isnan(objective("knn_uniform", np.zeros(4), SIMILARITY))
    assert math.isnan(objective("tagcos", mass, SIMILARITY))
