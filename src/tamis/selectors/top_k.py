"""LESS's selector: the pool rows most similar to some group of targets."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Float64

from tamis.selectors.picks import Picks, best, check_shape, check_similarity, finite_rows, highest

_BLOCK_CELLS = 1 << 19  # of similarities added up at once: 2 MB
_REDUCE = ("group_mean_max", "mean", "max")


def top_k(
    similarity: Float[np.ndarray, "target pool"],
    *,
    n_examples: int,
    groups: Sequence[Hashable] | None = None,
    reduce: str = "group_mean_max",
) -> Picks:
    """The n_examples pool rows with the highest score, descending; ties to the lowest pool index.

    score(pool row) = max over groups of the mean similarity over the group's targets   ("group_mean_max")
                    = mean over all targets ("mean"), or max over all targets ("max"); these two ignore groups.

    `groups` holds one label per target row; targets labelled None (in the data: no field, null or an empty string) form
    one group of their own. No groups is one group.
    Scores are float64 for means, and the similarity's own type for "max".

    ValueError for similarities that are not finite, n_examples out of range, or groups of another length.

    Source: LESS, arXiv 2402.04333.

    >>> top_k(np.array([[0.1, 0.9, 0.3], [0.8, 0.2, 0.3]]), n_examples=2, groups=["a", "b"]).indices
    array([1, 0])
    """
    check_shape(similarity, n_examples)
    scores = pool_scores(similarity, groups, reduce)
    indices = best(scores, n_examples)
    return Picks(indices, scores[indices])


def pool_scores(
    similarity: Float[np.ndarray, "target pool"],
    groups: Sequence[Hashable] | None = None,
    reduce: str = "group_mean_max",
) -> Float[np.ndarray, " pool"]:
    """What `top_k` ranks the pool rows by, in the pool's order."""
    n_target = len(similarity)
    if groups is not None and len(groups) != n_target:
        raise ValueError(f"expected one group label for each of {n_target} targets, got {len(groups)}")
    if reduce not in _REDUCE:
        raise ValueError(f"expected reduce to be one of {_REDUCE}, got {reduce!r}")
    if reduce == "max":
        return highest(finite_rows(similarity))
    if reduce == "mean" or groups is None:
        return _mean(similarity, list(range(n_target)))
    members: dict[Hashable, list[int]] = {}
    for target, label in enumerate(groups):
        members.setdefault(label, []).append(target)
    return highest(_mean(similarity, rows) for rows in members.values())


def _mean(similarity: np.ndarray, rows: list[int]) -> Float64[np.ndarray, " pool"]:
    """A block of columns at a time, because the similarity may be on disk and larger than memory."""
    total = np.empty(similarity.shape[1])
    n_columns = max(1, _BLOCK_CELLS // len(rows))
    for start in range(0, len(total), n_columns):
        part = slice(start, start + n_columns)
        block = similarity[rows, part]
        if block.shape[1] == 1:
            block = np.repeat(block, 2, axis=1)  # a single column would be added up in another order
        total[part] = np.add.reduce(block, axis=0, dtype=np.float64)[: len(total[part])]
    if not np.isfinite(total).all():
        check_similarity(similarity, 1)  # names the cell
    return total / len(rows)
