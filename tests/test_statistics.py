"""Statistics against SciPy, brute force, hand-worked numbers and simulated data with known truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tamis.statistics import (
    ONE_SEED,
    Difference,
    average_rank,
    holm,
    mean_interval,
    paired_difference,
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
    assert welch([1.0], [2.0, 3.0]).note == ONE_SEED
    assert welch([1.0], [2.0, 3.0]).difference == -1.5
    assert welch([], [1.0]).note == "no value on a side"
    same = welch([1.0, 1.0], [2.0, 2.0])
    assert welch([0.1 + 0.2] * 3, [0.3] * 3).note == same.note  # whatever rounding makes of their variance
    assert (same.difference, same.note) == (-1.0, "equal over all seeds")
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


def compared(a: np.ndarray, b: np.ndarray, n_draws: int = 4000) -> Difference:
    """Of losses [seed, example]."""
    means = resampled_means(np.vstack([a, b]), n_draws)
    return paired_difference(means[:, : len(a)], means[:, len(a) :], a.shape[1])


def test_draws_are_those_of_all_resamples() -> None:
    values = np.array([[1.0, 2.0, 6.0], [0.0, 0.5, 3.0]])
    every = np.array([values[:, list(drawn)].mean(axis=1) for drawn in itertools.product(range(3), repeat=3)])
    means = resampled_means(values, 40_000, seed=0)
    np.testing.assert_allclose(means[0], values.mean(axis=1))
    np.testing.assert_allclose(means[1:].mean(axis=0), every.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(means[1:].T), np.cov(every.T, ddof=0), rtol=0.03)


def test_draws_in_chunks_keep_rows_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(8).normal(size=(2, 30))
    values[1] = values[0] + 1
    monkeypatch.setattr("tamis.statistics._DRAWN_AT_ONCE", 300)
    means = resampled_means(values, 105, seed=0)
    assert means.shape == (106, 2)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)


def test_examples_alone_are_the_paired_t_test() -> None:
    """Seeds that are all alike have no part in it; and what examples share is taken out."""
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 10, 60)
    a, b = shared + rng.normal(0.3, 1, 60), shared + rng.normal(0, 1, 60)
    found = compared(np.tile(a, (2, 1)), np.tile(b, (3, 1)), n_draws=40_000)
    expected = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue, rel=0.05)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=0.01)
    assert found.note == "equal over all seeds: tested over examples alone"


def test_seeds_alone_are_welchs_test() -> None:
    """Examples that all differ alike say nothing of their luck."""
    a, b, hard = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.5]), np.random.default_rng(0).normal(size=20)
    found, expected = compared(a[:, None] + hard, b[:, None] + hard), welch(a, b)
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p)
    )
    assert (found.n, found.note) == (20, "")


def test_both_parts_by_hand() -> None:
    """Half the interval is √(t² v + t² v); at p it is the difference."""
    rng = np.random.default_rng(3)
    hard, a = rng.normal(0, 0.8, 50), np.array([1.0, 1.2, 1.6])
    b = np.array([0.2, 0.1, 0.15])
    found = compared(a[:, None] + hard, np.tile(b[:, None], 50), n_draws=40_000)
    seeds = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = sum(seeds) ** 2 / (seeds[0] ** 2 / 2 + seeds[1] ** 2 / 2)

    def half(p: float) -> float:
        parts = (
            stats.t.ppf(1 - p / 2, 49) ** 2 * hard.var(ddof=1) / 50,
            stats.t.ppf(1 - p / 2, freedom) ** 2 * sum(seeds),
        )
        return math.sqrt(sum(parts))

    assert (found.high - found.low) / 2 == pytest.approx(half(0.05), rel=0.01)
    assert half(found.p) == pytest.approx(found.difference, rel=0.01)


def test_laws_of_a_difference() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(3, 50)), rng.normal(1, 1, size=(2, 50))
    one, other = compared(a, b), compared(b, a)
    assert one.difference == pytest.approx(a.mean() - b.mean())
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)
    assert one == compared(a, b)
    assert compared(a, a).p == 1
    assert 0 < compared(a, a + 1e6).p < 1e-9  # never 0, and solved for however small


def test_differences_that_cannot_be_tested_say_why() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(1, 40)), rng.normal(5, 1, size=(3, 40))
    for one, other in ((a, b), (b, a), (a, b[:1])):
        found = compared(one, other)
        assert math.isnan(found.p)
        assert found.note == ONE_SEED
        assert found.low < found.difference < found.high  # of these two models, over examples
    single = compared(b[:, :1], b[:, 1:2])
    assert (single.note, math.isnan(single.p), math.isnan(single.low)) == ("one test example", True, True)
    hard = 0.1 * np.arange(40)
    same = compared(np.tile(hard, (3, 1)), np.tile(hard + 0.3, (2, 1)))  # whatever rounding makes of it
    assert same.note == "equal over all seeds, as the difference is over all examples"
    assert same.difference == pytest.approx(-0.3)
    assert math.isnan(same.p)
    for bad in (np.array([[1.0, math.nan]]), np.ones((2, 0))):
        with pytest.raises(ValueError, match="a value for every example"):
            resampled_means(bad)


def simulated(
    n_seeds: int, luck: float, examples: float, both: float, effect: float = 0.0, runs: int = 2000
) -> np.ndarray:
    """p-values of two methods on 50 examples; standard deviations: of seeds, of examples' differences, of the two
    together. The draws of examples are shared by all runs, as a study's are by its methods."""
    rng = np.random.default_rng([n_seeds, int(100 * luck), int(100 * examples)])
    losses = rng.normal(0, 3, (runs, 1, 1, 50)) + luck * rng.normal(size=(runs, 2, n_seeds, 1))
    losses = losses + examples * rng.normal(size=(runs, 2, 1, 50)) + both * rng.normal(size=(runs, 2, n_seeds, 50))
    losses[:, 0] += effect
    means = resampled_means(losses.reshape(-1, 50), 500).reshape(-1, runs, 2, n_seeds)
    return np.array([paired_difference(means[:, run, 0], means[:, run, 1], 50).p for run in range(runs)])


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("luck", "examples", "both", "least"),
    [(1, 0, 0, 0.015), (0, 1, 0, 0.04), (0.2, 1, 0.5, 0.0), (1, 1, 0, 0.0)],
    ids=["seeds alone", "examples alone", "mixed", "mostly seeds"],
)
def test_false_positives_are_no_more_than_said(
    n_seeds: int, luck: float, examples: float, both: float, least: float
) -> None:
    """Of 2,000 without an effect: 5% by a standard error of 0.5%, and 0.25% (5% of 20 comparisons) by one of 0.11%."""
    p = simulated(n_seeds, luck, examples, both)
    assert least <= (p < 0.05).mean() <= 0.065
    assert (p < 0.05 / 20).mean() <= 0.006


@pytest.mark.parametrize(
    ("n_seeds", "luck", "examples", "effect"),
    [(2, 0.0, 0.5, 0.6), (3, 0.01, 0.5, 0.8), (3, 0.1, 0.0, 2.0), (5, 0.2, 0.5, 1.5)],
)
def test_real_effects_are_found(n_seeds: int, luck: float, examples: float, effect: float) -> None:
    p = simulated(n_seeds, luck, examples, 0, effect, runs=300)
    assert (p < 0.05 / 20).mean() > 0.9


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
