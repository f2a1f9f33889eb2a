"""Herding: rows whose running mean keeps close to the pool's mean."""

import numpy as np

from tamis.selectors.picks import Picks
from tamis.selectors.rows import Rows, check_features, column_sums, dot, equal_rows


def herding(features: Rows, *, n_examples: int) -> Picks:
    """Pick t (from 1) is the row not yet taken with the largest ⟨a, μ⟩ − (1/t)·Σ_{taken} ⟨a, a_j⟩, μ the mean row.

    Ties go to the lowest pool index; scores are that value. A smaller n_examples is a prefix of a larger one. The
    features are read once for each pick, and products are float32.

    ValueError for features that are not finite, or n_examples out of range.

    Source: Welling 2009, Herding dynamical weights to learn; Chen, Welling and Smola 2010, arXiv 1203.3472, with the
    linear kernel and without replacement.

    >>> herding(np.array([[0.0, 0.0], [1.0, 0.0], [0.9, 0.0], [0.0, 0.8]]), n_examples=2).indices
    array([1, 3])
    """
    check_features(features, n_examples)
    n_pool = features.shape[0]
    first, copies = equal_rows(features)
    indices, scores = np.empty(n_examples, np.int64), np.empty(n_examples)
    total = column_sums(features)
    # (rank + 1)·Σ_pool a − n_pool·Σ_taken a: the goal times pool size and rank, so that whole numbers stay whole
    lacking = total.copy()
    for rank in range(n_examples):
        gain = dot(features, lacking.astype(np.float32))
        gain[copies] = gain[first[copies]]
        gain[indices[:rank]] = -np.inf
        pick = int(gain.argmax())
        indices[rank], scores[rank] = pick, float(gain[pick]) / (n_pool * (rank + 1))
        lacking += total
        lacking -= n_pool * np.asarray(features[pick : pick + 1], np.float32)[0].astype(np.float64)
    return Picks(indices, scores)
