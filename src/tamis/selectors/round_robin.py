"""Targets take turns; each takes its most similar pool row not yet taken."""

import numpy as np
from jaxtyping import Bool, Float, Int32

from tamis.selectors.picks import Picks, best, check_similarity


def round_robin(similarity: Float[np.ndarray, "target pool"], *, n_examples: int, memory_bytes: int = 1 << 28) -> Picks:
    """Pick k (from 0) goes to target k mod n_target: its most similar pool row not yet taken, ties to the lowest index.

    Scores are the similarity of each pick to the target that took it, so they do not descend. A smaller n_examples is a
    prefix of a larger one.

    `memory_bytes` changes no pick: each target keeps the best of the rows that are free, at 4 bytes each, and looks
    again when they are all taken. Besides it some 40 bytes for each pool row are needed.

    ValueError for similarities that are not finite, or n_examples out of range.

    Source: the selection of RDS+, arXiv 2503.01807.

    >>> round_robin(np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]]), n_examples=3).indices
    array([0, 1, 2])
    """
    check_similarity(similarity, n_examples)
    n_target, n_pool = similarity.shape
    n_kept = max(1, memory_bytes // (4 * n_target))
    free = np.ones(n_pool, bool)
    candidates = [np.empty(0, np.int32)] * n_target
    places = [0] * n_target
    indices = np.empty(n_examples, np.int64)
    for rank in range(n_examples):
        target = rank % n_target
        place = _next_free(candidates[target], places[target], free, window=2 * n_target)
        if place >= len(candidates[target]):
            # As many as there are picks left are always enough: the others can take no more than those.
            left = np.flatnonzero(free)
            candidates[target] = left[best(similarity[target, left], min(n_kept, n_examples - rank))].astype(np.int32)
            place = 0
        indices[rank] = candidates[target][place]
        free[indices[rank]] = False
        places[target] = place + 1
    return Picks(indices, similarity[np.arange(n_examples) % n_target, indices])


def _next_free(candidates: Int32[np.ndarray, " kept"], place: int, free: Bool[np.ndarray, " pool"], window: int) -> int:
    """The first place from `place` on whose candidate is free, or a place behind the last.

    A window at a time: since this target's last turn every other has taken a row, and where targets are alike those
    are its own next ones.
    """
    while place < len(candidates):
        is_free = free[candidates[place : place + window]]
        first = int(is_free.argmax())
        if is_free[first]:
            return place + first
        place += window
    return place
