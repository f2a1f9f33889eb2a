import doctest
import importlib
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rows import Lazy

from tamis.selectors import k_center


def by_definition(rows: list[list[int]], first: int, n_examples: int) -> list[int]:
    picks = [first]
    while len(picks) < n_examples:
        nearest = {
            i: min(sum((a - b) ** 2 for a, b in zip(row, rows[j], strict=True)) for j in picks)
            for i, row in enumerate(rows)
            if i not in picks
        }
        picks.append(max(nearest, key=lambda i: (nearest[i], -i)))
    return picks


def first_of(n_pool: int, seed: int) -> int:
    return int(np.random.default_rng(seed).integers(n_pool))


def seed_for(n_pool: int, first: int) -> int:
    return next(seed for seed in range(1000) if first_of(n_pool, seed) == first)


def test_hand_worked_table() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    picks = k_center(rows, n_examples=4, seed=seed_for(4, 0))
    assert picks.indices.tolist() == [0, 3, 1, 2]
    assert picks.scores.tolist() == [10.0, 10.0, 5.0, 1.0]  # the first: how far the farthest row is
    assert picks.n_supported is None


small = st.integers(1, 3).flatmap(
    lambda dim: st.lists(st.lists(st.integers(-3, 3), min_size=dim, max_size=dim), min_size=1, max_size=14)
)


@settings(deadline=None)
@given(rows=small, seed=st.integers(0, 20))
def test_agrees_with_the_definition_with_ties_and_equal_rows(rows: list[list[int]], seed: int) -> None:
    n_pool = len(rows)
    picks = k_center(np.array(rows, np.float32), n_examples=n_pool, seed=seed)
    assert picks.indices.tolist() == by_definition(rows, first_of(n_pool, seed), n_pool)
    assert np.isfinite(picks.scores).all()
    for n_examples in range(1, n_pool):
        smaller = k_center(np.array(rows, np.float32), n_examples=n_examples, seed=seed)
        np.testing.assert_array_equal(smaller.indices, picks.indices[:n_examples])
        np.testing.assert_array_equal(smaller.scores, picks.scores[:n_examples])


@pytest.mark.parametrize("seed", range(20))
def test_equal_rows_are_at_distance_0_and_follow_by_index(seed: int) -> None:
    """A failure means that products of equal rows differ in the last bit, by where the rows lie."""
    rng = np.random.default_rng(seed)
    rows = (100 + rng.standard_normal((17, 33))).astype(np.float32)[rng.integers(0, 17, 60)]
    n_distinct = len(np.unique(rows, axis=0))
    picks = k_center(rows, n_examples=60, seed=seed)
    assert len(np.unique(rows[picks.indices[:n_distinct]], axis=0)) == n_distinct
    assert (picks.scores[:n_distinct] > 0).all()
    assert not picks.scores[n_distinct:].any()
    assert (np.diff(picks.indices[n_distinct:]) > 0).all()
    for pick in picks.indices[1:n_distinct]:
        assert not (rows[:pick] == rows[pick]).all(axis=1).any() or (rows[pick] == rows[picks.indices[0]]).all()


def test_covers_within_twice_the_best_radius() -> None:
    rows = np.random.default_rng(0).standard_normal((11, 2))
    distance = np.linalg.norm(rows[:, None] - rows, axis=2)
    best = min(distance[:, list(chosen)].min(axis=1).max() for chosen in combinations(range(11), 3))
    for seed in range(11):
        assert distance[:, k_center(rows, n_examples=3, seed=seed).indices].min(axis=1).max() <= 2 * best


def test_the_first_is_drawn_from_all() -> None:
    rows = np.zeros((5, 2))
    assert {int(k_center(rows, n_examples=1, seed=seed).indices[0]) for seed in range(100)} == set(range(5))
    assert k_center(rows, n_examples=1).scores.tolist() == [0.0]


def test_features_may_come_from_anywhere(tmp_path) -> None:
    rows = np.random.default_rng(0).integers(-4, 5, (200, 9)).astype(np.float32)
    expected = k_center(rows, n_examples=200)
    np.save(tmp_path / "rows.npy", rows)
    memmap = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for other in (rows.astype(np.float16), rows.astype(np.float64), memmap, Lazy(rows.astype(np.float16))):
        picks = k_center(other, n_examples=200)
        np.testing.assert_array_equal(picks.indices, expected.indices)
        np.testing.assert_array_equal(picks.scores, expected.scores)


@pytest.mark.parametrize("n_examples", [0, 4])
def test_refuses_what_the_pool_cannot_give(n_examples: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to 3, the size of the pool; got {n_examples}"):
        k_center(np.zeros((3, 2)), n_examples=n_examples)


def test_names_the_cell_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"got nan at \[1, 1\]"):
        k_center(np.array([[0.0, 1.0], [2.0, np.nan]]), n_examples=1)


def test_the_example_in_the_docstring_holds() -> None:
    result = doctest.testmod(importlib.import_module("tamis.selectors.k_center"))
    assert (result.attempted > 0, result.failed) == (True, 0)
