"""Statistics against SciPy, brute force, hand-worked numbers and simulated data with known truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tamis.statistics import (
    average_rank,
    holm,
    mean_interval,
    paired_bootstrap,
    resampled_difference,
    resampled_means,
    spearman,
    welch,
)

# ---- over seeds ----------------------------------------------------------------------------------------------------


def test_mean_interval_by_hand() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n, found.note) == (2.0, 3, "")
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)  # t table, 2 degrees of freedom
    assert found.high - 2 == pytest.approx(2 - found.low)


def test_mean_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    found = mean_interval(values, confidence=0.9)
    expected = stats.t.interval(0.9, 11, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(5, 3, (2000, 3))
    covered = sum((found := mean_interval(row)).low <= 5 <= found.high for row in draws)
    assert 0.935 < covered / 2000 < 0.965


def test_mean_interval_without_enough_values_says_so() -> None:
    one = mean_interval([4.0, math.nan])
    assert (one.mean, one.n) == (4.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert "no interval" in one.note
    none = mean_interval([])
    assert math.isnan(none.mean)
    assert (none.n, none.note) == (0, "no value")
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        mean_interval([1.0, 2.0], confidence=95.0)


def test_welch_is_that_of_scipy() -> None:
    a, b = [1.0, 2.0, 4.0, 5.5], [3.0, 3.5, 7.0]
    found, expected = welch(a, [*b, math.nan]), stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.difference, found.n) == (pytest.approx(3.125 - 4.5), 4)


def test_welch_that_cannot_test_says_why() -> None:
    assert welch([1.0], [2.0, 3.0]).note == "one seed: not tested"
    assert welch([1.0], [2.0, 3.0]).difference == -1.5
    assert welch([], [1.0]).note == "nothing to compare"
    same = welch([1.0, 1.0], [2.0, 2.0])
    assert welch([0.1 + 0.2] * 3, [0.3] * 3).note == same.note  # whatever rounding makes of their variance
    assert (same.difference, same.note) == (-1.0, "equal over all seeds: not tested")
    assert math.isnan(same.p)


# ---- rank correlation ----------------------------------------------------------------------------------------------


def test_spearman_by_hand_with_ties() -> None:
    found = spearman([1, 2, 3, 4], [1, 2, 2, 3])
    assert found.rho == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    half = 1.959964 * math.sqrt((1 + found.rho**2 / 2) / (4 - 3))
    assert found.low == pytest.approx(math.tanh(math.atanh(found.rho) - half), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(found.rho) + half), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=7))
def test_spearman_is_that_of_scipy_and_its_p_that_of_all_orders(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, np.float64).T
    found = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(found.rho)
        assert found.note == "all values are equal"
        return
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    if len(x) <= 5:
        orders = [stats.spearmanr(x, order).statistic for order in itertools.permutations(y)]
        assert found.p == pytest.approx(np.mean(np.abs(orders) >= abs(found.rho) - 1e-9))


def test_spearman_p_of_many_pairs_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=40)
    y = 0.3 * x + rng.normal(size=40)
    found = spearman(x, y)
    assert found.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    assert found == spearman(x, y)
    assert spearman(np.arange(10), np.arange(10)).p == 1e-4  # never 0: the order seen is one of those


def test_spearman_interval_covers_the_truth() -> None:
    """Of a bivariate normal ρ = 6/π arcsin(r/2)."""
    rng = np.random.default_rng(4)
    truth = 6 / math.pi * math.asin(0.5 / 2)
    covered = 0
    for _ in range(400):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 30).T
        found = spearman(x, y, n_permutations=1)
        covered += found.low <= truth <= found.high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize(
    ("x", "y", "rho", "note"),
    [
        ([1, 2, 3], [1, 2, 3], math.nan, "3 pairs: too few"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], math.nan, "3 pairs: too few"),
        ([1, 2, 3, 4], [5, 5, 5, 5], math.nan, "all values are equal"),
        ([1, 2, 3, 4], [1, 2, 3, 9], 1, "no interval at |ρ| = 1"),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1, "no interval at |ρ| = 1"),
        ([1, 2, 3, 4, 5], [1, 2, 5, 2, 1], 0, ""),
    ],
)
def test_spearman_edges(x: list[float], y: list[float], rho: float, note: str) -> None:
    found = spearman(x, y)
    assert found.rho == pytest.approx(rho, abs=1e-12, nan_ok=True)
    assert found.note == note
    assert math.isnan(found.low) == bool(note)


def test_spearman_of_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="as many y as x, got 2 and 3"):
        spearman([1, 2, 3], [1, 2])


# ---- over test examples --------------------------------------------------------------------------------------------


def test_bootstrap_is_that_of_all_resamples() -> None:
    a, b = np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.5, 3.0])
    every = np.array([(a - b)[list(drawn)].mean() for drawn in itertools.product(range(3), repeat=3)])
    found = paired_bootstrap(a, b, n_draws=40_000, seed=0)
    assert found.difference == pytest.approx(0.5)
    p = 2 * min((every <= 0).mean(), (every >= 0).mean())
    assert found.p == pytest.approx(p, abs=0.01)
    quantiles = np.quantile(np.repeat(every, 2000), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(quantiles), abs=1e-9)


def test_bootstrap_of_many_examples_is_the_normal_interval() -> None:
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 10, 400)  # what pairing takes out
    a, b = shared + rng.normal(0.1, 1, 400), shared + rng.normal(0, 1, 400)
    found = paired_bootstrap(a, b, n_draws=20_000, seed=1)
    half = 1.96 * (a - b).std(ddof=1) / 20
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)
    assert (found.low + found.high) / 2 == pytest.approx((a - b).mean(), abs=0.01)


def test_bootstrap_rejects_the_null_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    rejected = sum(
        paired_bootstrap(rng.normal(size=60), rng.normal(size=60), n_draws=400, seed=k).p < 0.05 for k in range(400)
    )
    assert 0.03 <= rejected / 400 <= 0.09


def test_bootstrap_laws() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(3, 50)), rng.normal(1, 1, size=(2, 50))
    one, other = (paired_bootstrap(x, y, n_draws=2000, seed=0) for x, y in ((a, b), (b, a)))
    assert one.difference == pytest.approx(a.mean() - b.mean())
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)
    assert one.p == 2 / 2001  # the least there is
    assert one == paired_bootstrap(a, b, n_draws=2000, seed=0)
    same = paired_bootstrap(a, a, n_draws=500, seed=0)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_bootstrap_in_chunks_keeps_rows_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(8).normal(size=(2, 30))
    values[1] = values[0] + 1
    monkeypatch.setattr("tamis.statistics._DRAWN_AT_ONCE", 300)
    means = resampled_means(values, 105, seed=0)
    assert means.shape == (105, 2)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)


def test_seeds_drawn_too_have_the_variance_of_their_mean() -> None:
    """Examples that do not vary leave that of the seeds alone: s²/n on each side."""
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0])
    means = np.tile(a, (200_000, 1)), np.tile(b, (200_000, 1))
    draws = resampled_difference(*means, 0, seeds_too=True)
    assert draws.mean() == pytest.approx(a.mean() - b.mean(), abs=0.01)
    assert draws.var() == pytest.approx(a.var(ddof=1) / 3 + b.var(ddof=1) / 2, rel=0.02)
    alone = resampled_difference(means[0][:, :1], means[1][:, :1], 0, seeds_too=True)
    assert (alone == 1.0).all()


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(4)), (np.ones((2, 3)), np.ones((2, 2))), ([], [])])
def test_bootstrap_of_other_examples(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the same examples"):
        paired_bootstrap(np.asarray(a), np.asarray(b))
    with pytest.raises(ValueError, match="got NaN"):
        paired_bootstrap(np.array([1.0, math.nan]), np.ones(2))


# ---- over targets and comparisons ----------------------------------------------------------------------------------


def test_average_rank_by_hand() -> None:
    found = average_rank(np.array([[1.0, 2.0, 2.0], [3.0, 1.0, 2.0]]))
    np.testing.assert_allclose(found.mean, [2, 1.75, 2.25])
    assert found.n == 2
    assert found.p == pytest.approx(stats.friedmanchisquare([1, 3], [2, 1], [2, 2]).pvalue)


def test_critical_difference_is_that_of_the_published_table() -> None:
    """Demšar (2006): 4 classifiers on 14 data sets, q = 2.569."""
    found = average_rank(np.random.default_rng(0).normal(size=(14, 4)))
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3)


def test_average_rank_that_cannot_test() -> None:
    two = average_rank(np.array([[1.0, 2.0], [1.0, 2.0]]))
    assert two.note == "2 methods on 2 targets: too few to test"
    np.testing.assert_allclose(two.mean, [1, 2])
    equal = average_rank(np.ones((3, 3)))
    assert equal.note == "all values are equal"
    np.testing.assert_allclose(equal.mean, [2, 2, 2])
    with pytest.raises(ValueError, match="every target and method"):
        average_rank(np.array([[1.0, math.nan]]))


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.5]), [0.02, math.nan, 0.5])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(p: list[float]) -> None:
    """A hypothesis is rejected where every intersection it is in is: p = max over subsets of |S| min p."""
    subsets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n)]
    brute = [max(min(1.0, len(s) * min(p[k] for k in s)) for s in subsets if place in s) for place in range(len(p))]
    np.testing.assert_allclose(holm(p), brute)
