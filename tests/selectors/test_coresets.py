"""k_center, herding and facility_location against their definitions; features from anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.selectors import facility_location, herding, k_center, matching_pursuit, tagcos


def drawn(seed: int, n_pool: int, dim: int = 4) -> np.ndarray:
    """Small whole numbers, with zero rows and equal rows: products are exact, and ties common."""
    return np.random.default_rng(seed).integers(-2, 3, (n_pool, dim)).astype(np.float32)


seeds, sizes = st.integers(0, 100_000), st.integers(1, 25)


@settings(deadline=None)
@given(seed=seeds, n_pool=sizes)
def test_herding_follows_its_definition(seed: int, n_pool: int) -> None:
    rows = drawn(seed, n_pool, dim=3)
    exact = rows.astype(np.float64)
    picks = herding(rows, n_examples=n_pool)
    taken: list[int] = []
    for pick, score in zip(picks.indices.tolist(), picks.scores, strict=True):
        gain = exact @ exact.mean(axis=0) - exact @ exact[taken].sum(axis=0) / (len(taken) + 1)
        gain[taken] = -np.inf
        assert score == pytest.approx(gain[pick], abs=1e-5)
        assert gain[pick] == pytest.approx(gain.max(), abs=1e-5)
        taken.append(pick)


@settings(deadline=None)
@given(seed=seeds, n_pool=sizes, first=st.integers(0, 9))
def test_k_center_takes_the_farthest(seed: int, n_pool: int, first: int) -> None:
    rows = drawn(seed, n_pool)
    picks = k_center(rows, n_examples=n_pool, seed=first)
    squared = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(axis=2)  # exact in float32 too
    taken = [int(picks.indices[0])]
    for pick, score in zip(picks.indices[1:].tolist(), picks.scores[1:], strict=True):
        nearest = squared[:, taken].min(axis=1)
        nearest[taken] = -1
        assert pick == int(nearest.argmax())
        assert score == pytest.approx(np.sqrt(nearest[pick]), rel=1e-6)
        taken.append(pick)


def cosines(rows: np.ndarray, n_neighbors: int) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 2)
    for row in cosine:
        row[np.argsort(-row, kind="stable")[n_neighbors:]] = 0
    return np.clip(cosine, 0, 1).astype(np.float64)


@settings(deadline=None)
@given(seed=seeds, n_pool=sizes, n_neighbors=st.integers(1, 30))
def test_facility_location_follows_its_definition(seed: int, n_pool: int, n_neighbors: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((n_pool, 3)).astype(np.float32)
    rows[: n_pool // 3] = rows[-1]  # equal rows
    if n_pool > 4:
        rows[2] = 0
    graph = cosines(rows, n_neighbors)
    picks = facility_location(rows, n_examples=n_pool, n_neighbors=n_neighbors)
    covered = np.zeros(n_pool)
    taken: list[int] = []
    for pick, score in zip(picks.indices.tolist(), picks.scores, strict=True):
        gain = np.maximum(graph - covered[:, None], 0).sum(axis=0)
        gain[taken] = -np.inf
        assert score == pytest.approx(gain[pick], abs=1e-5)
        assert gain[pick] == pytest.approx(gain.max(), abs=1e-5)
        covered = np.maximum(covered, graph[:, pick])
        taken.append(pick)


def test_facility_location_reaches_what_greedy_promises() -> None:
    """At least 1 − 1/e of the best of all subsets."""
    from itertools import combinations

    rows = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    graph = cosines(rows, 12)
    best = max(graph[:, list(chosen)].max(axis=1).sum() for chosen in combinations(range(12), 3))
    picks = facility_location(rows, n_examples=3)
    assert (1 - 1 / np.e) * best <= picks.scores.sum() <= best + 1e-6


def test_rows_that_add_nothing_are_said_to() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    picks = facility_location(rows, n_examples=4)
    assert picks.indices.tolist() == [0, 2, 1, 3]
    assert picks.n_supported == 2
    with pytest.raises(ValueError, match="n_neighbors of at least 1, got 0"):
        facility_location(rows, n_examples=1, n_neighbors=0)


class Lazy:
    """Rows that can only be read by slice or by position, as float16."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows.astype(np.float16)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    def __getitem__(self, rows) -> np.ndarray:
        assert isinstance(rows, slice | np.ndarray)
        return self._rows[rows].copy()


SELECTORS = {
    "k_center": lambda f: k_center(f, n_examples=30),
    "herding": lambda f: herding(f, n_examples=30),
    "facility_location": lambda f: facility_location(f, n_examples=30, n_neighbors=20),
    "matching_pursuit": lambda f: matching_pursuit(f, np.ones(16), n_examples=30),
    "tagcos": lambda f: tagcos(f, n_examples=30, n_clusters=5),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_features_may_come_from_anywhere(name: str, tmp_path) -> None:
    rows = np.random.default_rng(0).integers(-4, 5, (300, 16)).astype(np.float32)  # exact in float16
    expected = SELECTORS[name](rows)
    np.save(tmp_path / "rows.npy", rows)
    for given_rows in (rows.astype(np.float64), np.load(tmp_path / "rows.npy", mmap_mode="r"), Lazy(rows)):
        np.testing.assert_array_equal(SELECTORS[name](given_rows).indices, expected.indices)


def test_a_cluster_too_large_to_hold_is_read_where_it_is() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    expected = tagcos(rows, n_examples=30, n_clusters=5)
    again = tagcos(rows, n_examples=30, n_clusters=5, memory_bytes=0)
    np.testing.assert_array_equal(again.indices, expected.indices)
