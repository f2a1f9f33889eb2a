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
_ROUNDING = 1e-12  # spread below this share of the values is no spread
_LEAST_P = 1e-15  # that is solved for
ONE_SEED = "one seed on a side, so only these two trained models could be compared"


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
    """mean(a) − mean(b), its interval, and the two-sided p-value of no difference; `n`: examples, or seeds of a.

    Where p is NaN, `note` is why nothing was tested.
    """

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
    one, other = (x[~np.isnan(x)] for x in (np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()))
    if not len(one) or not len(other):
        return Difference(math.nan, math.nan, math.nan, math.nan, len(one), "no value on a side")
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Difference(difference, math.nan, math.nan, math.nan, len(one), ONE_SEED)
    seeds = _of_seeds([one, other], max(_size(one), _size(other)))
    if not seeds[0]:
        return Difference(difference, math.nan, math.nan, math.nan, len(one), "equal over all seeds")
    half, p = _tested(difference, [seeds], confidence)
    return Difference(difference, difference - half, difference + half, p, len(one))


def _of_seeds(sides: Sequence[np.ndarray], size: float) -> tuple[float, float]:
    """Variance of mean(a) − mean(b), Σ s²/n, and its degrees of freedom, Σ² / Σ ((s²/n)² / (n − 1)) (Welch, 1947)."""
    parts = [(_variance(x, size) / len(x), len(x) - 1) for x in sides]
    total = sum(part for part, _ in parts)
    return total, total**2 / sum(part**2 / own for part, own in parts) if total else math.nan


def _tested(difference: float, parts: Sequence[tuple[float, float]], confidence: float) -> tuple[float, float]:
    """Half the interval, and p, of a difference whose variance is the sum of independent parts.

    Parts: variance and its degrees of freedom, one above 0 at least. Half is √(Σ t_ν² v), and p is where it reaches the
    difference (Banerjee, Sankhyā 22, 1960): it is never too short, whichever part is large. One t with degrees of
    freedom for the sum (Satterthwaite's) is too short far out, where p-values to be corrected lie: a few seeds may look
    alike by chance, and then count for little in both its variance and its degrees of freedom.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtr, stdtrit

    known = [(math.sqrt(variance), freedom) for variance, freedom in parts if variance]

    def half(p: float) -> float:
        return math.hypot(*(error * float(stdtrit(freedom, p / 2)) for error, freedom in known))

    error = math.hypot(*(error for error, _ in known))
    # If all of the variance had the most, or the fewest, degrees of freedom of a part: p is in between
    ps = [2 * float(stdtr(freedom, -abs(difference) / error)) for _, freedom in known]
    low, high = max(min(ps), _LEAST_P), max(ps)
    if high > low:
        high = math.exp(brentq(lambda log_p: half(math.exp(log_p)) - abs(difference), math.log(low), math.log(high)))
    return half(1 - confidence), high


def _size(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def _variance(values: np.ndarray, size: float) -> float:
    """s² of values; 0 where they differ by no more than rounding of numbers of this size."""
    variance = float(values.var(ddof=1))
    return variance if math.sqrt(variance) > _ROUNDING * size else 0.0


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


def resampled_means(
    values: Float[np.ndarray, "row example"], n_draws: int = N_DRAWS, seed: int = 0
) -> Float[np.ndarray, "means row"]:
    """Means of each row: first over its examples, then over `n_draws` sets of them drawn with replacement.

    The draws are the same for every row, so rows stay paired. ValueError for no example, or a NaN.
    """
    if not values.size or np.isnan(values).any():
        raise ValueError(f"expected a value for every example, got shape {values.shape} or NaN")
    rng = np.random.default_rng(seed)
    n = values.shape[1]
    means = [values.mean(axis=1)[None]]
    at_once = max(1, _DRAWN_AT_ONCE // n)
    for first in range(0, n_draws, at_once):
        n_here = min(at_once, n_draws - first)
        drawn = rng.integers(n, size=(n_here, n)) + n * np.arange(n_here)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_here * n).reshape(n_here, n)
        means.append(counts @ values.T / n)
    return np.concatenate(means)


def paired_difference(
    a: Float[np.ndarray, "means seed_a"],
    b: Float[np.ndarray, "means seed_b"],
    n_examples: int,
    confidence: float = CONFIDENCE,
) -> Difference:
    """mean(a) − mean(b) over seeds and over the same test examples, both being samples of those there could be.

    a, b    `resampled_means` of the seeds of each side, by the same draws of `n_examples` examples

    Its variance is the sum of the examples' (the paired bootstrap: that of the draws, seeds averaged, times n/(n−1); it
    has n − 1 degrees of freedom) and the seeds' (s²/n of each side's means over all examples, as in `welch`). Half the
    interval is √(t² v + t² v), each part with its own t. What seed and example do together is counted in both, which
    errs to the safe side. Drawing seeds anew instead would not do: two or three say nothing of their tails.

    With one seed on a side nothing is tested, and the interval is that of these two models over examples; nor with one
    example, or where nothing varies.
    """
    difference, size = float(a[0].mean() - b[0].mean()), max(_size(a[0]), _size(b[0]))
    if n_examples < 2:
        return Difference(difference, math.nan, math.nan, math.nan, n_examples, "one test example")
    one_seed = min(a.shape[1], b.shape[1]) < 2
    drawn = _variance(a[1:].mean(axis=1) - b[1:].mean(axis=1), size)
    examples = drawn * n_examples / (n_examples - 1), float(n_examples - 1)
    seeds = (0.0, math.nan) if one_seed else _of_seeds([a[0], b[0]], size)
    if not examples[0] and not seeds[0]:
        note = ONE_SEED if one_seed else "equal over all seeds, as the difference is over all examples"
        return Difference(difference, math.nan, math.nan, math.nan, n_examples, note)
    half, p = _tested(difference, [examples, seeds], confidence)
    low, high = difference - half, difference + half
    if one_seed:
        return Difference(difference, low, high, math.nan, n_examples, ONE_SEED)
    note = "" if seeds[0] else "equal over all seeds: tested over examples alone"
    return Difference(difference, low, high, p, n_examples, note)


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
