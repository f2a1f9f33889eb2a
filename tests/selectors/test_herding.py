import doctest
import importlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rows import Lazy

from tamis.selectors import herding


def by_definition(rows: list[list[int]]) -> tuple[list[int], list[float]]:
    """All picks, in exact arithmetic: pick t (from 0) maximises (t+1)·⟨mean, x⟩ − Σ ⟨x_j, x⟩ over the picked."""

    def dot(a, b) -> Fraction:
        return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))

    mean = [Fraction(sum(column), len(rows)) for column in zip(*rows, strict=True)]
    picks: list[int] = []
    scores = []
    for t in range(len(rows)):
        value = {
            i: (t + 1) * dot(mean, row) - sum(dot(rows[j], row) for j in picks)
            for i, row in enumerate(rows)
            if i not in picks
        }
        picks.append(max(value, key=lambda i: (value[i], -i)))
        scores.append(float(value[picks[-1]] / (t + 1)))
    return picks, scores


def test_hand_worked_table() -> None:
    rows = np.array([[4.0, 0.0], [0.0, 2.0], [0.0, 0.0], [4.0, 2.0]])  # mean [2, 1]
    picks = herding(rows, n_examples=4)
    # ⟨mean, x⟩ is 8, 2, 0, 10; with row 3 taken 2·8−16, 2·2−4, 0; then 3·8−16 = 8, 3·2−4 = 2 and so on
    assert picks.indices.tolist() == [3, 0, 1, 2]
    assert picks.scores.tolist() == [10.0, 0.0, pytest.approx(2 / 3), 0.0]
    assert picks.n_supported is None


small = st.integers(1, 3).flatmap(
    lambda dim: st.lists(st.lists(st.integers(-3, 3), min_size=dim, max_size=dim), min_size=1, max_size=14)
)


@settings(deadline=None)
@given(rows=small)
def test_agrees_with_the_definition_with_ties_and_equal_rows(rows: list[list[int]]) -> None:
    """Exactly: whole numbers stay whole, so a tie is a tie."""
    expected, scores = by_definition(rows)
    picks = herding(np.array(rows, np.float32), n_examples=len(rows))
    assert picks.indices.tolist() == expected
    np.testing.assert_allclose(picks.scores, scores, rtol=1e-12)
    for n_examples in range(1, len(rows)):
        smaller = herding(np.array(rows, np.float32), n_examples=n_examples)
        np.testing.assert_array_equal(smaller.indices, picks.indices[:n_examples])
        np.testing.assert_array_equal(smaller.scores, picks.scores[:n_examples])


@pytest.mark.parametrize("seed", range(20))
def test_equal_rows_follow_by_index(seed: int) -> None:
    """A failure means that products of equal rows differ in the last bit, by where the rows lie."""
    rng = np.random.default_rng(seed)
    n_pool, dim = int(rng.integers(4, 60)), int(rng.integers(1, 40))
    label = rng.integers(0, n_pool // 3 + 1, n_pool)
    rows = rng.standard_normal((n_pool, dim)).astype(np.float32)[label]
    indices = herding(rows, n_examples=n_pool).indices
    for one in set(label.tolist()):
        assert (np.diff(indices[label[indices] == one]) > 0).all()


def test_the_mean_of_the_picks_nears_the_mean_of_the_pool() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 5))
    indices = herding(rows, n_examples=50).indices
    drawn = [np.random.default_rng(seed).choice(500, 50, replace=False) for seed in range(100)]
    error = [np.linalg.norm(rows[chosen].mean(axis=0) - rows.mean(axis=0)) for chosen in (indices, *drawn)]
    assert error[0] < min(error[1:])


def test_features_may_come_from_anywhere(tmp_path) -> None:
    rows = np.random.default_rng(0).integers(-4, 5, (200, 9)).astype(np.float32)
    expected = herding(rows, n_examples=200)
    np.save(tmp_path / "rows.npy", rows)
    memmap = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for other in (rows.astype(np.float16), rows.astype(np.float64), memmap, Lazy(rows.astype(np.float16))):
        picks = herding(other, n_examples=200)
        np.testing.assert_array_equal(picks.indices, expected.indices)
        np.testing.assert_array_equal(picks.scores, expected.scores)


@pytest.mark.parametrize("n_examples", [0, 4])
def test_refuses_what_the_pool_cannot_give(n_examples: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to 3, the size of the pool; got {n_examples}"):
        herding(np.zeros((3, 2)), n_examples=n_examples)


def test_names_the_cell_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"got nan at \[1, 1\]"):
        herding(np.array([[0.0, 1.0], [2.0, np.nan]]), n_examples=1)


def test_the_example_in_the_docstring_holds() -> None:
    result = doctest.testmod(importlib.import_module("tamis.selectors.herding"))
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_float64_rows_are_those_rows_as_float32() -> None:
    for seed in range(50):
        rows = np.random.default_rng(seed).integers(-5, 6, (12, 3)) * 0.1  # many ties, none of them exact in float64
        found, expected = herding(rows, n_examples=12), herding(rows.astype(np.float32), n_examples=12)
        assert found.indices.tolist() == expected.indices.tolist()
