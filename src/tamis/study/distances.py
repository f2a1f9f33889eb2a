"""How far a subset of the pool is from a target: one space for every selector, and each selector's own objective.

d(target, row) = 1 − similarity; with cosines it is between 0 and 2.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_MOST_ENTRIES = 20_000_000  # of a cost matrix that an exact transport plan is computed for
_BY_SIMILARITY = ("top_k", "doubly_greedy", "round_robin")  # whose scores are similarities
_BY_MASS = ("unbalanced_transport", "knn_uniform", "knn_kde")  # whose scores are mass that target rows give


@dataclass(frozen=True, slots=True)
class Distances:
    """Of one subset; NaN where one is not known.

    mean_nearest  (1/M) Σ_targets min over the subset of d: how well each target row is served
    wasserstein   the least mean d at which the target's mass, spread evenly, becomes the subset's, spread evenly
                  (exact, by POT's network simplex); NaN beyond 20 million pairs
    objective     what the selector itself makes small, see `objective`
    """

    mean_nearest: float = math.nan
    wasserstein: float = math.nan
    objective: float = math.nan


def mean_nearest(similarity: Float[np.ndarray, "target subset"]) -> float:
    """Mean distance of a target row to its nearest row of the subset."""
    return float(np.mean(1 - similarity.max(axis=1), dtype=np.float64))


def wasserstein(
    similarity: Float[np.ndarray, "target subset"], weights: Float[np.ndarray, " subset"] | None = None
) -> float:
    """1-Wasserstein distance of the target, spread evenly, and the subset, spread evenly or by weights."""
    if similarity.size > _MOST_ENTRIES:
        return math.nan
    import ot

    cost = 1 - similarity.astype(np.float64)
    n_target, n_subset = cost.shape
    given = np.ones(n_subset) if weights is None else np.asarray(weights, np.float64)
    return float(ot.emd2(np.full(n_target, 1 / n_target), given / given.sum(), cost, numItermax=10_000_000))


def objective(
    selector: str, scores: Float[np.ndarray, " subset"], similarity: Float[np.ndarray, "target subset"]
) -> float:
    """What a selector makes small, in the space of its own representation:

    top_k, doubly_greedy, round_robin      the mean of 1 − score over the picks: of a group's mean similarity, of the
                                           nearest target row's, of that of the target row whose turn it was
    unbalanced_transport, knn_uniform/kde  the Wasserstein distance with the picks weighted by the mass they received
    others                                 NaN: they do not look at the target, or at features only
    """
    if selector in _BY_SIMILARITY:
        return float(np.mean(1 - np.asarray(scores, np.float64)))
    if selector in _BY_MASS:
        mass = np.clip(np.asarray(scores, np.float64), 0, None)
        return wasserstein(similarity[:, mass > 0], mass[mass > 0]) if mass.sum() > 0 else math.nan
    return math.nan


def of_subset(
    similarity: Float[np.ndarray, "target pool"], columns: Int[np.ndarray, " subset"] | list[int]
) -> Distances:
    """The distances of a subset of the pool that need no selector."""
    if not len(columns):
        return Distances()
    part = np.asarray(similarity[:, np.asarray(columns)])
    return Distances(mean_nearest(part), wasserstein(part))
