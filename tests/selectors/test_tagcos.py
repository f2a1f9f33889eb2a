import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.selectors import matching_pursuit, random, tagcos
from tamis.selectors.rows import mean
from tamis.selectors.tagcos import _batches, _shares


def clustered(n_pool: int = 600, n_clusters: int = 6, dim: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_clusters, n_pool, p=np.arange(1, n_clusters + 1) / (n_clusters * (n_clusters + 1) / 2))
    rows = 4 * rng.standard_normal((n_clusters, dim))[labels] + rng.standard_normal((n_pool, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), data=st.data())
def test_shares_are_the_largest_remainders(sizes: list[int], data) -> None:
    n_examples = data.draw(st.integers(1, sum(sizes)))
    shares = _shares(np.array(sizes), n_examples)
    exact = n_examples * np.array(sizes) / sum(sizes)
    assert shares.sum() == n_examples
    assert (np.abs(shares - exact) < 1).all()
    assert (shares <= sizes).all()
    rounded_up = shares > exact + 1e-9
    assert (
        not rounded_up.any()
        or (exact % 1)[rounded_up].min() >= (exact % 1)[~rounded_up].max(initial=0) - 1e-9
        or (exact[~rounded_up] % 1 < 1e-9).all()
    )


def test_each_cluster_has_its_share_by_pursuit_of_its_mean() -> None:
    rows, labels = clustered()
    picks = tagcos(rows, n_examples=60, n_clusters=6)
    shares = np.bincount(labels[picks.indices], minlength=6)
    np.testing.assert_array_equal(shares, _shares(np.bincount(labels), 60))
    for cluster in range(6):
        members = np.flatnonzero(labels == cluster)
        expected = matching_pursuit(rows[members], mean(rows[members]), n_examples=int(shares[cluster]))
        mine = labels[picks.indices] == cluster
        np.testing.assert_array_equal(picks.indices[mine], members[expected.indices])
        np.testing.assert_allclose(picks.scores[mine], expected.scores, rtol=1e-6)
        np.testing.assert_allclose(picks.weights[mine], expected.weights * len(members) / len(rows), rtol=1e-6)


@pytest.mark.parametrize("given", [{"ridge": 0.01}, {"tolerance": 0.5}])
def test_of_one_cluster_it_is_the_pursuit_with_the_same_settings(given: dict[str, float]) -> None:
    rows, _ = clustered(n_pool=100)
    picks = tagcos(rows, n_examples=20, n_clusters=1, **given)
    expected = matching_pursuit(rows, mean(rows), n_examples=20, **given)
    np.testing.assert_array_equal(picks.indices, expected.indices)
    np.testing.assert_allclose(picks.weights, expected.weights)
    assert np.abs(picks.weights - matching_pursuit(rows, mean(rows), n_examples=20).weights).max() > 0.01


def test_a_cut_keeps_every_cluster() -> None:
    rows, labels = clustered()
    picks = tagcos(rows, n_examples=120, n_clusters=6)
    assert set(labels[picks.indices[:6]].tolist()) == set(range(6))
    half = np.bincount(labels[picks.indices[:60]], minlength=6)
    np.testing.assert_allclose(half, np.bincount(labels[picks.indices], minlength=6) / 2, atol=1)


def test_the_weighted_coreset_stands_for_the_pool_better_than_chance() -> None:
    rows, _ = clustered(n_pool=1500)
    goal = mean(rows)
    picks = tagcos(rows, n_examples=60, n_clusters=6)

    def distance(indices: np.ndarray, weights: np.ndarray) -> float:
        return float(np.linalg.norm(weights @ rows[indices] / weights.sum() - goal) / np.linalg.norm(goal))

    by_chance = [distance(random(1500, n_examples=60, seed=seed).indices, np.ones(60)) for seed in range(20)]
    assert distance(picks.indices, picks.weights) < np.median(by_chance)


def test_clusters_go_through_the_map_that_is_given() -> None:
    rows, _ = clustered()
    seen = []

    def backwards(function, tasks):
        done = {}
        for number, task in reversed(list(enumerate(tasks))):
            seen.append(len(task[0]))
            done[number] = function(task)
        return [done[number] for number in range(len(tasks))]

    picks = tagcos(rows, n_examples=60, n_clusters=6, map=backwards)
    assert len(seen) == 6
    np.testing.assert_array_equal(picks.indices, tagcos(rows, n_examples=60, n_clusters=6).indices)


@settings(deadline=None, max_examples=20)
@given(n_pool=st.integers(1, 30), n_clusters=st.integers(1, 40), data=st.data())
def test_more_clusters_than_rows_or_picks(n_pool: int, n_clusters: int, data) -> None:
    rows = np.random.default_rng(n_pool).standard_normal((n_pool, 4)).astype(np.float32)
    n_examples = data.draw(st.integers(1, n_pool))
    picks = tagcos(rows, n_examples=n_examples, n_clusters=n_clusters)
    assert len(set(picks.indices.tolist())) == n_examples
    with pytest.raises(ValueError, match="n_clusters of at least 1, got 0"):
        tagcos(rows, n_examples=1, n_clusters=0)


@pytest.mark.parametrize("n_pool", [1, 63, 64, 65, 5_000])
def test_batches_hold_every_row_equally_often_in_runs_of_neighbours(monkeypatch, n_pool: int) -> None:
    monkeypatch.setattr(sys.modules["tamis.selectors.tagcos"], "_MIN_BATCHES", 3)
    drawn = list(_batches(n_pool, seed=0))
    times = np.bincount(np.concatenate(drawn), minlength=n_pool)
    assert set(times.tolist()) == {-(-3 * 4096 // n_pool)}
    assert max(map(len, drawn)) <= 4096
    assert all(((np.diff(some) == 1) | (some[1:] % 64 == 0)).all() for some in drawn)


def test_above_a_size_clusters_are_found_in_batches(monkeypatch) -> None:
    rows, labels = clustered(n_pool=3000)
    module = sys.modules["tamis.selectors.tagcos"]
    monkeypatch.setattr(module, "_MINI_BATCH_ABOVE", 0)
    monkeypatch.setattr(module, "_BATCH_ROWS", 512)
    read = []

    class Lazy:
        shape = rows.shape

        def __getitem__(self, positions) -> np.ndarray:
            read.append(len(rows[positions]))
            return rows[positions]

    picks = tagcos(Lazy(), n_examples=150, n_clusters=6)
    assert max(read) <= max(512, max(np.bincount(labels)) * 1.2, 3000)
    np.testing.assert_allclose(
        np.bincount(labels[picks.indices], minlength=6), _shares(np.bincount(labels), 150), atol=8
    )
    np.testing.assert_array_equal(picks.indices, tagcos(Lazy(), n_examples=150, n_clusters=6).indices)
