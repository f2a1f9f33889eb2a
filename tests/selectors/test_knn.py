"""knn_uniform and knn_kde against direct transcriptions, and against the published code."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import knn_kde_mass, knn_uniform_mass

from tamis.selectors import Picks, doubly_greedy, knn_kde, knn_uniform
from tamis.selectors.density import _n_positive, density


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def crowds(n_pool: int, dim: int, n_target: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], list[float]]:
    """Similarity and features of two checkpoints: some tight crowds, some loose rows."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((4, dim))
    base = centres[rng.integers(0, 4, n_pool)] + rng.choice([0.1, 1.0], (n_pool, 1)) * rng.standard_normal(
        (n_pool, dim)
    )
    targets = unit(centres[rng.integers(0, 4, n_target)] + 0.5 * rng.standard_normal((n_target, dim)))
    features = [unit(base + 0.05 * rng.standard_normal(base.shape)) for _ in range(2)]
    weights = [0.7, 0.3]
    similarity = sum(w * (targets @ f.T) for w, f in zip(weights, features, strict=True))
    return similarity.astype(np.float32), features, weights


def check_ranking(picks: Picks, mass: np.ndarray, similarity: np.ndarray, rtol: float) -> None:
    """Scores are the masses, rows come in their order as far as rounding goes, the rest doubly greedy."""
    np.testing.assert_allclose(picks.scores, mass[picks.indices], rtol=rtol, atol=1e-12)
    supported = int((mass > 0).sum())
    assert picks.n_supported == min(supported, len(picks.indices))
    assert (np.diff(picks.scores) <= 0).all()
    rest = picks.indices[picks.n_supported :]
    greedy = doubly_greedy(similarity, n_examples=similarity.shape[1]).indices
    assert rest.tolist() == [row for row in greedy if mass[row] == 0][: len(rest)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n_pool=st.integers(1, 40),
    n_target=st.integers(1, 6),
    n_neighbors=st.integers(1, 50),
    c=st.sampled_from([5.0, 0.05, 0.002]),
)
def test_knn_uniform_follows_the_rule(seed: int, n_pool: int, n_target: int, n_neighbors: int, c: float) -> None:
    similarity = np.random.default_rng(seed).integers(-8, 9, (n_target, n_pool)).astype(np.float32) / 8  # ties
    mass = knn_uniform_mass(similarity, n_neighbors, c=c)
    picks = knn_uniform(similarity, n_examples=n_pool, n_neighbors=n_neighbors, c=c)
    check_ranking(picks, mass, similarity, rtol=1e-12)
    expected = np.lexsort((np.arange(n_pool), -np.round(mass * 1e9)))[: picks.n_supported]
    assert picks.indices[: picks.n_supported].tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n_pool=st.integers(2, 90),
    n_target=st.integers(1, 5),
    n_neighbors=st.integers(2, 60),
    n_density_neighbors=st.integers(1, 30),
    c=st.sampled_from([5.0, 0.05, 0.005]),
)
def test_knn_kde_follows_the_rule(
    seed: int, n_pool: int, n_target: int, n_neighbors: int, n_density_neighbors: int, c: float
) -> None:
    similarity, features, weights = crowds(n_pool, 6, n_target, seed)
    given = {"n_neighbors": n_neighbors, "n_density_neighbors": n_density_neighbors, "c": c}
    mass = knn_kde_mass(similarity, features, weights, **given)
    picks = knn_kde(similarity, n_examples=n_pool, pool_features=features, lr_weights=weights, **given)
    assert picks.scores.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(picks.scores, mass[picks.indices], rtol=1e-4, atol=1e-6)
    assert (np.diff(picks.scores) <= 0).all()


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), n_target=st.integers(1, 4), c=st.sampled_from([5.0, 0.01, 0.002, 0.0005]))
def test_knn_kde_follows_the_rule_where_counts_are_equal(seed: int, n_target: int, c: float) -> None:
    """Densities are whole numbers, of the copies among the candidates; who comes first decides who is accepted."""
    rng = np.random.default_rng(seed)
    features = np.eye(20, dtype=np.float32)[rng.integers(0, 20, 60)]
    similarity = rng.integers(-8, 9, (n_target, 60)).astype(np.float32) / 8
    given = {"bandwidth": 0.5**0.5, "c": c}
    mass = knn_kde_mass(similarity, [features], [1.0], **given)
    picks = knn_kde(similarity, n_examples=60, pool_features=[features], lr_weights=[1.0], **given)
    np.testing.assert_allclose(picks.scores, mass[picks.indices], atol=1e-12)


@pytest.mark.parametrize("n_neighbors", [5, 40, 500])
@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("length", [1.0, 0.98])  # itself a row is near as can be, whatever its length
def test_density_is_the_sum_over_the_nearest_in_any_memory(
    monkeypatch, n_neighbors: int, held: int, length: float
) -> None:
    monkeypatch.setattr("tamis.selectors.density._BLOCK_ROWS", 70)
    _, features, weights = crowds(400, 8, 1, seed=3)
    features = [np.float32(length) * rows for rows in features]
    positions = np.random.default_rng(0).permutation(400)[:333]
    cosine = sum(w * (f[positions].astype(np.float64) @ f[positions].T) for w, f in zip(weights, features, strict=True))
    np.fill_diagonal(cosine, 1)
    kernel = np.sort(np.maximum(0, 1 - 2 * (1 - cosine) / 0.75**2), axis=1)[:, -n_neighbors:]
    assert ((kernel > 0).sum(axis=1) == n_neighbors).any() == (n_neighbors < 100)  # crowds of about 80
    found = density(features, np.array(weights), positions, n_neighbors, 0.75, memory_bytes=held)
    np.testing.assert_allclose(found, kernel.sum(axis=1), rtol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (255, 8), (700, 13)])
def test_counts_of_rows_and_columns_are_right_beyond_a_byte(shape: tuple[int, int]) -> None:
    kernel = np.random.default_rng(0).choice(np.array([-1, 0, 1e-30, 1, 1, 1], np.float32), shape)
    kernel[:, 0] = 1
    in_row, in_column = _n_positive(kernel)
    np.testing.assert_array_equal(in_row, (kernel > 0).sum(axis=1))
    np.testing.assert_array_equal(in_column, (kernel > 0).sum(axis=0))


def test_of_a_crowd_one_row_counts() -> None:
    """Nine copies and one loner at the same distance: the loner has the mass of all nine together."""
    features = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]] + [[-1.0, 0.0]] * 110, np.float32)
    similarity = np.array([[0.9] * 9 + [0.9] + [0.1] * 110], np.float32)
    picks = knn_kde(similarity, n_examples=12, pool_features=[features], lr_weights=[1.0])
    mass = dict(zip(picks.indices.tolist(), picks.scores.tolist(), strict=True))
    assert picks.indices[0] == 9
    assert [mass[row] for row in range(9)] == pytest.approx([mass[9] / 9] * 9)
    assert [row for row in picks.indices.tolist() if row < 9] == list(range(9))


def test_equal_rows_are_taken_by_index_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    label = np.concatenate([np.arange(60), rng.integers(0, 60, 540)])
    rows = unit(rng.standard_normal((60, 16)))
    similarity = (rows[:4] @ rows.T)[:, label]
    picks = knn_kde(similarity, n_examples=60, pool_features=[rows[label]] * 2, lr_weights=[0.7, 0.3])
    for one in range(60):
        is_copy = label[picks.indices] == one
        is_tied = np.diff(picks.scores[is_copy]) > -1e-6  # not so of what takes the rest that a target has to give
        assert (np.diff(picks.indices[is_copy])[is_tied] > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_names_the_feature_that_is_not_finite(value: float) -> None:
    similarity, features, weights = crowds(30, 4, 3, seed=0)
    row = int(similarity.argmax(axis=1).max())  # not the first of the candidates
    assert row > 8
    features[1][row, 2] = value
    with (
        pytest.raises(ValueError, match=rf"finite features, got {value} at \[{row}, 2\]"),
        np.errstate(invalid="ignore"),
    ):
        knn_kde(similarity, n_examples=3, pool_features=features, lr_weights=weights)


def test_a_target_that_has_given_all_supports_no_further_row() -> None:
    for seed in range(20):
        similarity, features, weights = crowds(300, 8, 3, seed)
        picks = knn_kde(similarity, n_examples=300, pool_features=features, lr_weights=weights)
        assert picks.scores[picks.n_supported - 1] > 1e-9


def test_a_larger_alpha_asks_for_nearness_and_a_larger_c_for_spread() -> None:
    similarity, features, weights = crowds(400, 8, 3, seed=0)
    for select in (
        partial(knn_uniform, similarity, n_examples=400),
        partial(knn_kde, similarity, n_examples=400, pool_features=features, lr_weights=weights),
    ):
        by_alpha = [select(alpha=alpha).n_supported for alpha in (0.01, 0.3, 0.6, 0.9, 0.99)]
        by_c = [select(c=c).n_supported for c in (1e-5, 1e-3, 0.05, 0.5, 5.0)]
        assert by_alpha == sorted(by_alpha, reverse=True)
        assert by_c == sorted(by_c)
        assert by_alpha[0] > by_alpha[-1]
        assert by_c[0] < by_c[-1]


def test_a_cost_that_just_reaches_the_bound_is_enough() -> None:
    """One target, d = 0, 1, 2 and far: with k = 1 the cost is 1, and α/c·1 = 1 − α."""
    similarity = np.array([[1.0, 0.0, -1.0] + [-9.0] * 27])
    picks = knn_uniform(similarity, n_examples=3, alpha=0.5, c=1.0)
    assert (picks.n_supported, picks.scores.tolist()) == (1, [1, 0, 0])
    loners = [np.eye(30, dtype=np.float32)]  # each of density 1
    picks = knn_kde(similarity, n_examples=3, pool_features=loners, lr_weights=[1.0], alpha=0.5, c=1.0)
    assert (picks.n_supported, picks.scores.tolist()) == (1, [1, 0, 0])


def test_no_row_gets_more_than_its_target_has_to_give() -> None:
    """The first target stops all at the count 1/2 of its nearest, one of two copies; the other's nearest counts 1."""
    features = np.eye(30, dtype=np.float32)
    features[1] = features[0]
    similarity = np.full((2, 30), -9.0)
    similarity[0, :3], similarity[1, 5:8] = [1, 0, -1], [1, 0, -1]
    given = {"pool_features": [features], "lr_weights": [1.0], "bandwidth": 0.5**0.5, "alpha": 0.5, "c": 0.125}
    picks = knn_kde(similarity, n_examples=30, n_density_neighbors=5, **given)
    assert (picks.indices[:2].tolist(), picks.scores[:3].tolist()) == ([0, 5], [0.5, 0.5, 0.0])


@pytest.mark.parametrize("n_pool", [1, 2, 3])
def test_tiny_pools(n_pool: int) -> None:
    similarity, features, weights = crowds(n_pool, 4, 3, seed=0)
    picks = knn_kde(similarity, n_examples=n_pool, pool_features=features, lr_weights=weights)
    assert sorted(picks.indices.tolist()) == list(range(n_pool))
    assert knn_uniform(similarity, n_examples=n_pool, n_neighbors=1).n_supported == len(set(similarity.argmax(axis=1)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": 0.0}, "alpha between 0 and 1, got 0"),
        ({"alpha": 1.0}, "alpha between 0 and 1, got 1"),
        ({"c": 0.0}, "c above 0, got 0"),
        ({"n_neighbors": 0}, "n_neighbors of at least 1, got 0"),
    ],
)
def test_refuses_settings_that_make_no_sense(given, message: str) -> None:
    similarity, features, weights = crowds(30, 4, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        knn_uniform(similarity, n_examples=3, **given)
    with pytest.raises(ValueError, match=message):
        knn_kde(similarity, n_examples=3, pool_features=features, lr_weights=weights, **given)


def test_refuses_features_that_do_not_fit() -> None:
    similarity, features, weights = crowds(30, 4, 3, seed=0)
    with pytest.raises(ValueError, match="features of 30 pool rows, got 29"):
        knn_kde(similarity, n_examples=3, pool_features=[features[0][:29]], lr_weights=[1.0])
    with pytest.raises(ValueError, match="as many lr_weights as features, got 1 and 2"):
        knn_kde(similarity, n_examples=3, pool_features=features, lr_weights=[1.0])
    with pytest.raises(ValueError, match="bandwidth above 0"):
        knn_kde(similarity, n_examples=3, pool_features=features, lr_weights=weights, bandwidth=0.0)


@pytest.mark.parametrize(("name", "c"), [("knn_uniform", 5.0), ("knn_uniform_c0.05", 0.05)])
def test_picks_what_the_published_knn_uniform_picks(golden, name: str, c: float) -> None:
    assert knn_uniform(golden.similarity, n_examples=300, c=c).indices.tolist() == golden.picks[name]


@pytest.mark.parametrize(("name", "c"), [("knn_kde", 5.0), ("knn_kde_c0.05", 0.05)])
def test_picks_what_the_published_knn_kde_picks(golden, name: str, c: float) -> None:
    """Place by place the masses agree to 1e-5; what only one of the two picks has the mass of the last."""
    given = {"pool_features": golden.pool_features, "lr_weights": golden.lr_weights, "c": c}
    picks = knn_kde(golden.similarity, n_examples=6000, **given)
    mass = dict(zip(picks.indices.tolist(), picks.scores.tolist(), strict=True))
    published = golden.picks[name]
    np.testing.assert_allclose(picks.scores[:300], [mass[row] for row in published], rtol=1e-5)
    other = set(published) - set(picks.indices[:300].tolist())
    assert len(other) <= 4
    assert all(mass[row] == pytest.approx(picks.scores[299], rel=1e-5) for row in other)
