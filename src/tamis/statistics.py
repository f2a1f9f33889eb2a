"""What measured numbers show: intervals over seeds, rank correlation, paired comparisons, mean ranks, many tests.

Where data do not carry an answer (one seed, fewer than four pairs, values that are all equal) it is NaN, and a note
says why. Draws are by `seed`, so the same numbers give the same answer.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Numbers = Sequence[float | int] | np.ndarray
CONFIDENCE = 0.95
N_DRAWS = 10_000
_N_EXACT = 7  # up to 7! = 5,040 orders all are tried
_DRAWN_AT_ONCE = 4_000_000  # counts of examples held in memory together: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `n` values with its confidence interval; bounds of NaN where there is none, and why in `note`."""

    mean: float
    low: float
    high: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's ρ of `n` pairs, its interval, and the p-value of its permutation test; NaN where unknown."""

    rho: float
    low: float
    high: float
    p: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """mean(a) − mean(b), its interval, and the two-sided p-value of no difference; `n`: examples, or seeds of a."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Mean rank of each column over the rows; 1 is best.

    critical_difference   mean ranks further apart than this differ (Nemenyi)
    p                     that all columns are equally good (Friedman)
    """

    mean: Float[np.ndarray, " method"]
    critical_difference: float
    p: float
    n: int
    note: str = ""


# ---- over seeds ----------------------------------------------------------------------------------------------------


def mean_interval(values: Numbers, confidence: float = CONFIDENCE) -> Interval:
    """mean ± t_{n−1} · s / √n, for values of the same thing under several seeds.

    NaNs are left out and not counted. One value has no interval: its bounds are NaN. ValueError for a confidence
    outside (0, 1).
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    array = np.asarray(values, np.float64).ravel()
    array = array[~np.isnan(array)]
    n = len(array)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "no value")
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, "one value: no interval")
    half = float(t.ppf((1 + confidence) / 2, n - 1) * array.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def welch(a: Numbers, b: Numbers, confidence: float = CONFIDENCE) -> Difference:
    """mean(a) − mean(b) of two independent sets of seeds with variances of their own (Welch's t-test).

    NaNs are left out. With one seed on a side, or no variance on either, nothing is tested, and the note says so.
    """
    from scipy.stats import t

    one, other = (x[~np.isnan(x)] for x in (np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()))
    if not len(one) or not len(other):
        return Difference(math.nan, math.nan, math.nan, math.nan, len(one), "nothing to compare")
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Difference(difference, math.nan, math.nan, math.nan, len(one), "one seed: not tested")
    if np.ptp(one) == np.ptp(other) == 0:
        return Difference(difference, math.nan, math.nan, math.nan, len(one), "equal over all seeds: not tested")
    squares = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    error = math.sqrt(sum(squares))
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / (len(one) - 1) + squares[1] ** 2 / (len(other) - 1))
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return Difference(difference, difference - half, difference + half, p, len(one))


# ---- rank correlation ----------------------------------------------------------------------------------------------


def spearman(
    x: Numbers,
    y: Numbers,
    confidence: float = CONFIDENCE,
    n_permutations: int = N_DRAWS - 1,
    seed: int = 0,
) -> Correlation:
    """Spearman's ρ (ties by their mean rank) with an interval and a permutation p-value.

    Interval: tanh(atanh ρ ± z · √((1 + ρ²/2) / (n − 3))) (Bonett and Wright, Psychometrika 65, 2000). At |ρ| = 1 it has
    no width, which is no knowledge: its bounds are NaN. The p-value is the two-sided share of orders of y with at least
    this |ρ|: all orders for up to 7 pairs, else `n_permutations` random ones and the one seen.

    Pairs with a NaN are left out. All is NaN for fewer than four pairs, or where all x or all y are equal. ValueError
    for lengths that differ.
    """
    from scipy.stats import norm, rankdata

    one, other = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    if len(one) != len(other):
        raise ValueError(f"expected as many y as x, got {len(other)} and {len(one)}")
    known = ~(np.isnan(one) | np.isnan(other))
    one, other = one[known], other[known]
    n = len(one)
    if n < 4:
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, f"{n} pairs: too few")
    if (one == one[0]).all() or (other == other[0]).all():
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, "all values are equal")
    ranks = [rank - rank.mean() for rank in (rankdata(one), rankdata(other))]
    scale = math.sqrt(float(ranks[0] @ ranks[0]) * float(ranks[1] @ ranks[1]))
    rho = max(-1.0, min(1.0, float(ranks[0] @ ranks[1]) / scale))
    p = _permutation_p(ranks[0], ranks[1], n_permutations, seed)
    if math.isclose(abs(rho), 1):
        return Correlation(float(round(rho)), math.nan, math.nan, p, n, "no interval at |ρ| = 1")
    half = norm.ppf((1 + confidence) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Correlation(rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), p, n)


def _permutation_p(x: np.ndarray, y: np.ndarray, n_permutations: int, seed: int) -> float:
    if len(y) <= _N_EXACT:
        orders = np.array(list(itertools.permutations(y)))
        n_seen = 0
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(y, (n_permutations, 1)), axis=1)
        n_seen = 1  # the order seen is one of those that could have come up
    at_least = np.abs(orders @ x) >= abs(float(x @ y)) - 1e-9
    return float((at_least.sum() + n_seen) / (len(orders) + n_seen))


# ---- over test examples --------------------------------------------------------------------------------------------


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, n_draws: int = N_DRAWS, seed: int = 0, *, seeds_too: bool = False
) -> Difference:
    """mean(a) − mean(b) over the same test examples, which are drawn anew with replacement.

    a, b        losses, [example] or [seed, example]; the seeds may differ in number, and are averaged over
    seeds_too   draw the seeds anew as well, each side its own; see `resampled_difference`

    The interval is of percentiles; p = 2 min(P(draw ≤ 0), P(draw ≥ 0)), counted with one draw more on each side, so it
    is never below 2 / (n_draws + 1). ValueError for numbers of examples that differ, or a NaN.
    """
    one, other = np.atleast_2d(np.asarray(a, np.float64)), np.atleast_2d(np.asarray(b, np.float64))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or not one.size or not other.size:
        raise ValueError(f"expected losses of the same examples, got shapes {one.shape} and {other.shape}")
    means = resampled_means(np.vstack([one, other]), n_draws, seed)
    n_seeds = len(one)
    difference = resampled_difference(means[:, :n_seeds], means[:, n_seeds:], seed, seeds_too=seeds_too)
    return difference_of_draws(float(one.mean() - other.mean()), difference, one.shape[1])


def resampled_means(values: Float[np.ndarray, "row example"], n_draws: int, seed: int) -> Float[np.ndarray, "draw row"]:
    """Means of each row over examples drawn with replacement: the same draws for every row, so rows stay paired."""
    if np.isnan(values).any():
        raise ValueError("expected a loss for every example, got NaN")
    rng = np.random.default_rng(seed)
    n = values.shape[1]
    means = []
    at_once = max(1, _DRAWN_AT_ONCE // n)
    for first in range(0, n_draws, at_once):
        n_here = min(at_once, n_draws - first)
        drawn = rng.integers(n, size=(n_here, n)) + n * np.arange(n_here)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_here * n).reshape(n_here, n)
        means.append(counts @ values.T / n)
    return np.concatenate(means)


def resampled_difference(
    a: Float[np.ndarray, "draw seed_a"], b: Float[np.ndarray, "draw seed_b"], seed: int, *, seeds_too: bool
) -> Float[np.ndarray, " draw"]:
    """Draws of mean(a) − mean(b) over seeds, from `resampled_means`.

    With `seeds_too` each draw takes seeds anew as well. So few seeds drawn with replacement vary less than their mean
    does, by (n − 1) / n: their weights are stretched about 1/n by √(n / (n − 1)), which gives the mean's own variance.
    A single seed stays as it is.
    """
    if not seeds_too:
        return np.asarray(a.mean(axis=1) - b.mean(axis=1))
    rng = np.random.default_rng([seed, 1])
    sides = []
    for means in (a, b):
        n = means.shape[1]
        stretch = math.sqrt(n / (n - 1)) if n > 1 else 0.0
        weights = rng.multinomial(n, np.full(n, 1 / n), size=len(means)) / n
        sides.append(((1 / n + (weights - 1 / n) * stretch) * means).sum(axis=1))
    return np.asarray(sides[0] - sides[1])


def difference_of_draws(difference: float, draws: Float[np.ndarray, " draw"], n: int) -> Difference:
    """A difference with the interval and p-value its draws give, as in `paired_bootstrap`."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    fewer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(difference, float(low), float(high), min(1.0, 2 * (fewer + 1) / (len(draws) + 1)), n)


# ---- over targets, and over comparisons ----------------------------------------------------------------------------


def average_rank(table: Float[np.ndarray, "target method"], confidence: float = CONFIDENCE) -> Ranks:
    """Each method's rank on a target (1: the lowest value; ties share their mean rank), averaged over targets.

    Critical difference: q_{1−α} √(k (k + 1) / 6N), q the studentized range over √2 (Demšar, JMLR 7, 2006). Friedman's
    test needs three methods and two targets, and values that differ; else p and critical difference are NaN. ValueError
    for a NaN in the table.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    if np.isnan(table).any() or not table.size:
        raise ValueError("expected a value for every target and method, got none or NaN")
    ranks = rankdata(table, axis=1)
    n, k = table.shape
    if n < 2 or k < 3:
        return Ranks(ranks.mean(axis=0), math.nan, math.nan, n, f"{k} methods on {n} targets: too few to test")
    if (table == table[:, :1]).all():
        return Ranks(ranks.mean(axis=0), math.nan, math.nan, n, "all values are equal")
    p = float(friedmanchisquare(*table.T).pvalue)
    q = float(studentized_range.ppf(confidence, k, np.inf)) / math.sqrt(2)
    return Ranks(ranks.mean(axis=0), q * math.sqrt(k * (k + 1) / (6 * n)), p, n)


def holm(p_values: Numbers) -> Float[np.ndarray, " comparison"]:
    """p-values so corrected that the chance of any false rejection stays below the level (Holm, 1979).

    The i-th smallest of m becomes max over j ≤ i of (m − j + 1) p_(j), at most 1. NaNs stay, and are not counted.
    """
    p = np.asarray(p_values, np.float64)
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
