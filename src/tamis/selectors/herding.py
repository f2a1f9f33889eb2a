"""Herding: rows whose running mean keeps close to the pool's mean."""

import numpy as np

from tamis.selectors.picks import Picks
from tamis.selectors.rows import Rows, check_features, dot, mean


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
    with_mean = dot(features, mean(features).astype(np.float32))
    with_taken = np.zeros(features.shape[0])
    indices, scores = np.empty(n_examples, np.int64), np.empty(n_examples)
    is_free = np.ones(features.shape[0], bool)
    for rank in range(n_examples):
        gain = np.where(is_free, with_mean - with_taken / (rank + 1), -np.inf)
        pick = int(gain.argmax())
        indices[rank], scores[rank] = pick, gain[pick]
        is_free[pick] = False
        if rank + 1 < n_examples:
            with_taken += dot(features, np.asarray(features[pick : pick + 1], np.float32)[0])
    return Picks(indices, scores)
