"""What holds for every selector. Similarities are drawn from few values, so that ties are common."""

import doctest
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis import methods, selectors
from tamis.selectors import (
    Picks,
    doubly_greedy,
    facility_location,
    herding,
    k_center,
    knn_kde,
    knn_uniform,
    matching_pursuit,
    random,
    round_robin,
    tagcos,
    top_k,
    unbalanced_transport,
)

Select = Callable[[np.ndarray, int], Picks]
SOURCES = list("abaac" * 12)


def features(similarity: np.ndarray) -> np.ndarray:
    """A row of the pool is its similarities to the targets; unit, but for zero rows."""
    rows = similarity.T.astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # of what is not finite the selectors are to tell
        return np.divide(rows, length, out=np.zeros_like(rows), where=length != 0)


def kde(similarity: np.ndarray, n_examples: int) -> Picks:
    return knn_kde(similarity, n_examples=n_examples, pool_features=[features(similarity)], lr_weights=[1.0])


SELECTORS: dict[str, Select] = {
    "top_k": lambda s, n: top_k(s, n_examples=n),
    "top_k groups": lambda s, n: top_k(s, n_examples=n, groups=[None if t % 3 == 2 else t % 3 for t in range(len(s))]),
    "top_k mean": lambda s, n: top_k(s, n_examples=n, reduce="mean"),
    "top_k max": lambda s, n: top_k(s, n_examples=n, reduce="max"),
    "doubly_greedy": lambda s, n: doubly_greedy(s, n_examples=n),
    "round_robin": lambda s, n: round_robin(s, n_examples=n),
    "round_robin, little memory": lambda s, n: round_robin(s, n_examples=n, memory_bytes=8),
    "unbalanced_transport": lambda s, n: unbalanced_transport(s, n_examples=n),
    "unbalanced_transport, little memory": lambda s, n: unbalanced_transport(s, n_examples=n, memory_bytes=0),
    "knn_uniform": lambda s, n: knn_uniform(s, n_examples=n, n_neighbors=4),
    "knn_kde": kde,
    "k_center": lambda s, n: k_center(features(s), n_examples=n, seed=3),
    "herding": lambda s, n: herding(features(s), n_examples=n),
    "facility_location": lambda s, n: facility_location(features(s), n_examples=n, n_neighbors=4),
    "matching_pursuit": lambda s, n: matching_pursuit(features(s), np.arange(1.0, len(s) + 1), n_examples=n),
    "tagcos": lambda s, n: tagcos(features(s), n_examples=n, n_clusters=1),
    "random": lambda s, n: random(s.shape[1], n_examples=n, seed=3),
    "random balanced": lambda s, n: random(s.shape[1], n_examples=n, seed=3, sources=SOURCES[: s.shape[1]]),
}
OF_ROWS = {"k_center", "herding", "facility_location", "matching_pursuit", "tagcos"}
USING_SIMILARITY = {n: select for n, select in SELECTORS.items() if n not in OF_ROWS and not n.startswith("random")}
NESTED = SELECTORS.keys() - {"matching_pursuit", "tagcos"}
TIED = {
    "knn_uniform",
    "knn_kde",
    "unbalanced_transport",
    "unbalanced_transport, little memory",
}  # a target gives all it has: many masses are equal
DRAWN = {"k_center", "random", "random balanced"}  # the first of them, or all, by a seed and by position
# facility_location has ties by its nature: of two rows each covers the other
IN_ANY_ORDER = SELECTORS.keys() - DRAWN - {"facility_location"}


def similarities(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 6), st.integers(1, 12))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=elements))


tied = similarities(st.sampled_from([-1.0, -0.25, 0.0, 0.25, 1.0]))


@pytest.mark.parametrize("name", SELECTORS)
@settings(deadline=None)
@given(similarity=tied, data=st.data())
def test_gives_exactly_n_distinct_positions_in_range_and_the_same_again(
    name: str, similarity: np.ndarray, data: st.DataObject
) -> None:
    n_pool = similarity.shape[1]
    n_examples = data.draw(st.integers(1, n_pool))
    before = similarity.copy()
    picks, again = (SELECTORS[name](similarity, n_examples) for _ in range(2))
    assert len(set(picks.indices.tolist())) == len(picks.indices) == len(picks.scores) == n_examples
    assert picks.indices.min() >= 0
    assert picks.indices.max() < n_pool
    np.testing.assert_array_equal(picks.indices, again.indices)
    np.testing.assert_array_equal(similarity, before)


@pytest.mark.parametrize("name", sorted(NESTED))
@settings(deadline=None)
@given(similarity=tied)
def test_a_smaller_budget_is_a_prefix(name: str, similarity: np.ndarray) -> None:
    n_pool = similarity.shape[1]
    complete = SELECTORS[name](similarity, n_pool)
    assert sorted(complete.indices.tolist()) == list(range(n_pool))
    for n_examples in range(1, n_pool):
        picks = SELECTORS[name](similarity, n_examples)
        np.testing.assert_array_equal(picks.indices, complete.indices[:n_examples])
        np.testing.assert_array_equal(picks.scores, complete.scores[:n_examples])
        n_own = n_pool if complete.n_supported is None else complete.n_supported
        assert (n_examples if picks.n_supported is None else picks.n_supported) == min(n_own, n_examples)


@pytest.mark.parametrize("name", sorted(IN_ANY_ORDER))
@settings(deadline=None)
@given(data=st.data())
def test_picks_follow_their_columns_when_the_pool_is_reordered(name: str, data: st.DataObject) -> None:
    least = 3 if name in OF_ROWS else 1  # two unit rows are equally far from their mean
    n_target, n_pool = data.draw(st.integers(least, 5)), data.draw(st.integers(least, 12))
    similarity = np.random.default_rng(data.draw(st.integers(0, 1000))).standard_normal((n_target, n_pool))  # no ties
    order = np.array(data.draw(st.permutations(range(n_pool))))
    picks = SELECTORS[name](similarity, n_pool)
    moved = SELECTORS[name](similarity[:, order], n_pool)
    for values, moved_values in ((picks.scores, moved.scores), (picks.weights, moved.weights)):
        if values is not None:
            by_row = np.empty((2, n_pool))
            by_row[0, picks.indices], by_row[1, order[moved.indices]] = values, moved_values
            np.testing.assert_allclose(by_row[0], by_row[1], rtol=1e-4, atol=1e-5)
    if name not in TIED:
        np.testing.assert_array_equal(order[moved.indices], picks.indices)


@pytest.mark.parametrize("name", sorted(SELECTORS.keys() - DRAWN))
def test_ties_go_to_the_lowest_index(name: str) -> None:
    picks = SELECTORS[name](np.ones((3, 5), np.float32), 5)
    assert picks.indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", sorted(SELECTORS.keys() - DRAWN - {"knn_kde"}))  # its densities are rounded sums
@settings(deadline=None)
@given(
    seed=st.integers(0, 1000), n_target=st.integers(1, 40), label=st.lists(st.integers(0, 6), min_size=1, max_size=25)
)
def test_equal_columns_are_taken_in_the_order_of_their_index(
    name: str, seed: int, n_target: int, label: list[int]
) -> None:
    """A failure means that what is computed of a row depends, in the last bit, on where it stands."""
    columns = np.random.default_rng(seed).standard_normal((n_target, 7)).astype(np.float32)
    indices = SELECTORS[name](columns[:, label], len(label)).indices
    for one in set(label):
        assert (np.diff(indices[np.array(label)[indices] == one]) > 0).all()


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("n_examples", [0, -1, 6])
def test_refuses_more_or_fewer_than_the_pool_can_give(name: str, n_examples: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to 5, the size of the pool; got {n_examples}"):
        SELECTORS[name](np.zeros((2, 5)), n_examples)


@pytest.mark.parametrize("name", USING_SIMILARITY)
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_names_the_cell_that_is_not_finite(name: str, value: float) -> None:
    similarity = np.zeros((3, 5), np.float32)
    similarity[1, 4] = value
    with pytest.raises(ValueError, match=rf"{value} at \[1, 4\]"):
        USING_SIMILARITY[name](similarity, 1)


@pytest.mark.parametrize("name", USING_SIMILARITY)
def test_refuses_a_similarity_without_targets(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 5\)"):
        USING_SIMILARITY[name](np.zeros((0, 5)), 1)


@pytest.mark.parametrize("name", sorted(OF_ROWS))
def test_names_the_feature_that_is_not_finite(name: str) -> None:
    similarity = np.zeros((3, 5), np.float32)
    similarity[1, 4] = np.nan
    with pytest.raises(ValueError, match=r"finite features, got nan at \[4, 0\]"), np.errstate(invalid="ignore"):
        SELECTORS[name](similarity, 1)


@pytest.mark.parametrize("name", methods.SELECTORS)
def test_the_example_in_the_docstring_holds(name: str) -> None:
    result = doctest.testmod(sys.modules[f"tamis.selectors.{name}"])
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", methods.SELECTORS)
def test_every_method_of_the_table_is_under_these_laws(name: str) -> None:
    assert methods.load(methods.SELECTORS[name].function) is getattr(selectors, name)
    assert name in SELECTORS
    assert methods.SELECTORS[name].nested == (name in NESTED)
