import doctest
import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rows import Lazy

from tamis.selectors import facility_location


def graph_of(rows: list[list[int]], n_neighbors: int) -> list[dict[int, Fraction]]:
    """Who can cover row i, and how well: its nearest rows, itself first and with 1, ties to the lowest index."""

    def cosine(i: int, j: int) -> float:
        if i == j:
            return 1.0
        length = math.sqrt(sum(a * a for a in rows[i]) * sum(b * b for b in rows[j]))
        return sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / length if length else 0.0

    graph = []
    for i in range(len(rows)):
        nearest = sorted(range(len(rows)), key=lambda j: (j != i, -cosine(i, j), j))[:n_neighbors]
        graph.append({j: Fraction(max(0.0, cosine(i, j))) for j in nearest})
    return graph


def by_definition(graph: list[dict[int, Fraction]]) -> tuple[list[int], list[float]]:
    """All picks of plain greedy: every gain again at every step, exactly, so that a tie is a tie.

    Ties are common late: of two rows that cover only each other, either adds the same.
    """
    picks: list[int] = []
    scores = []

    def objective(chosen: list[int]) -> Fraction:
        none = Fraction(0)
        return sum((max((row.get(j, none) for j in chosen), default=none) for row in graph), none)

    while len(picks) < len(graph):
        gain = {j: objective([*picks, j]) - objective(picks) for j in range(len(graph)) if j not in picks}
        picks.append(max(gain, key=lambda j: (gain[j], -j)))
        scores.append(float(gain[picks[-1]]))
    return picks, scores


def test_hand_worked_table() -> None:
    rows = np.array([[4.0, 3.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # cosines of row 0 with 1, 2: 0.8, 0.6; row 3 is like none
    picks = facility_location(rows, n_examples=4)
    assert picks.indices.tolist() == [0, 3, 2, 1]
    np.testing.assert_allclose(picks.scores, [2.4, 1.0, 0.4, 0.2], rtol=1e-6)
    assert picks.n_supported is None


def test_a_row_is_covered_by_its_neighbours_only() -> None:
    rows = np.array([[4.0, 3.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert facility_location(rows, n_examples=4, n_neighbors=1).indices.tolist() == [0, 1, 2, 3]
    picks = facility_location(rows, n_examples=4, n_neighbors=2)  # row 0 is no longer covered by 2, only by 1
    assert picks.indices.tolist() == [0, 3, 2, 1]


# Lengths of 1, 2 and 0 only: cosines are exact
exact_rows = st.lists(
    st.sampled_from([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, -1, 0]])
    | st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(rows=exact_rows, n_neighbors=st.integers(1, 14))
def test_agrees_with_plain_greedy_with_ties_equal_and_zero_rows(rows: list[list[int]], n_neighbors: int) -> None:
    """n_neighbors of the pool's size or more is the full objective."""
    n_pool = len(rows)
    expected, scores = by_definition(graph_of(rows, n_neighbors))
    picks = facility_location(np.array(rows, np.float32), n_examples=n_pool, n_neighbors=n_neighbors)
    assert picks.indices.tolist() == expected
    assert picks.scores.tolist() == scores
    n_adding = n_pool - scores.count(0.0)
    assert picks.n_supported == (n_adding if n_adding < n_pool else None)
    assert sorted(picks.indices[n_adding:].tolist()) == picks.indices[n_adding:].tolist()
    for n_examples in range(1, n_pool):
        smaller = facility_location(np.array(rows, np.float32), n_examples=n_examples, n_neighbors=n_neighbors)
        np.testing.assert_array_equal(smaller.indices, picks.indices[:n_examples])
        assert smaller.n_supported == (n_adding if n_adding < n_examples else None)


@pytest.mark.parametrize("seed", range(20))
def test_full_objective_on_random_rows(seed: int) -> None:
    rows = np.random.default_rng(seed).integers(-9, 10, (25, 5)).tolist()
    expected, scores = by_definition(graph_of(rows, 25))
    picks = facility_location(np.array(rows, np.float32), n_examples=25, n_neighbors=1000)
    np.testing.assert_allclose(picks.scores, scores, atol=1e-5)
    n_clear = int(np.argmax(np.array(scores) < 1e-5)) or 25
    assert picks.indices[:n_clear].tolist() == expected[:n_clear]


@pytest.mark.parametrize("seed", range(20))
def test_equal_rows_follow_by_index_and_add_nothing(seed: int) -> None:
    """A failure means that cosines of equal rows differ in the last bit, by where the rows lie."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 17, 60)
    rows = rng.standard_normal((17, 33)).astype(np.float32)[label]
    n_distinct = len(set(label.tolist()))
    picks = facility_location(rows, n_examples=60)
    assert picks.n_supported == n_distinct
    assert len(set(label[picks.indices[:n_distinct]].tolist())) == n_distinct
    for one in set(label.tolist()):
        assert (np.diff(picks.indices[label[picks.indices] == one]) > 0).all()
    assert (np.diff(picks.indices[n_distinct:]) > 0).all()


def test_the_graph_is_the_same_in_any_blocks(monkeypatch) -> None:
    rows = np.random.default_rng(0).integers(-2, 3, (90, 4)).astype(np.float32)
    expected = facility_location(rows, n_examples=90, n_neighbors=10)
    module = importlib.import_module("tamis.selectors.facility_location")
    monkeypatch.setattr(module, "_BLOCK_CELLS", 7 * 90)
    again = facility_location(rows, n_examples=90, n_neighbors=10)
    np.testing.assert_array_equal(again.indices, expected.indices)


def test_features_may_come_from_anywhere(tmp_path) -> None:
    rows = np.random.default_rng(0).integers(-4, 5, (200, 9)).astype(np.float32)
    expected = facility_location(rows, n_examples=200, n_neighbors=20)
    np.save(tmp_path / "rows.npy", rows)
    memmap = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for other in (rows.astype(np.float16), rows.astype(np.float64), memmap, Lazy(rows.astype(np.float16))):
        picks = facility_location(other, n_examples=200, n_neighbors=20)
        np.testing.assert_array_equal(picks.indices, expected.indices)
        np.testing.assert_array_equal(picks.scores, expected.scores)


@pytest.mark.parametrize("n_examples", [0, 4])
def test_refuses_what_the_pool_cannot_give(n_examples: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to 3, the size of the pool; got {n_examples}"):
        facility_location(np.zeros((3, 2)), n_examples=n_examples)


def test_refuses_no_neighbours_and_names_the_cell_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="n_neighbors of at least 1, got 0"):
        facility_location(np.zeros((3, 2)), n_examples=1, n_neighbors=0)
    with pytest.raises(ValueError, match=r"got nan at \[1, 1\]"):
        facility_location(np.array([[0.0, 1.0], [2.0, np.nan]]), n_examples=1)


def test_the_example_in_the_docstring_holds() -> None:
    result = doctest.testmod(importlib.import_module("tamis.selectors.facility_location"))
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_a_graph_that_does_not_fit_is_refused_before_any_work() -> None:
    rows = np.eye(100, dtype=np.float32)
    assert len(facility_location(rows, n_examples=3, n_neighbors=10, memory_bytes=16_000)) == 3
    with pytest.raises(ValueError, match=r"got 1\.76e-05 GB for 11 neighbours of 100 rows; lower n_neighbors to 10"):
        facility_location(rows, n_examples=3, n_neighbors=11, memory_bytes=16_000)
    with pytest.raises(ValueError, match="for 1 neighbours of 100 rows; raise the memory"):
        facility_location(rows, n_examples=3, n_neighbors=1, memory_bytes=100)
