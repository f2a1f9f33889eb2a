"""The baseline that every method has to beat: rows by chance."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from tamis.selectors.picks import Picks, check_n_examples


def random(
    n_pool: int,
    *,
    n_examples: int,
    seed: int = 0,
    sources: Sequence[Hashable] | Int[np.ndarray, " pool"] | None = None,
) -> Picks:
    """Rows drawn without replacement, all alike; or with `sources` (one label per pool row) balanced over the sources.

    Balanced: every source gives the same number of rows, but for those that run out and a difference of one. With the
    same seed a smaller n_examples is a prefix of a larger one. There is nothing to score: scores are 0.

    ValueError for n_examples out of range, or sources of another length.

    >>> 3 in random(4, n_examples=2, sources=["a", "a", "a", "b"]).indices
    True
    """
    check_n_examples(n_examples, n_pool)
    order = np.random.default_rng(seed).permutation(n_pool)
    if sources is not None:
        if len(sources) != n_pool:
            raise ValueError(f"expected one source for each of {n_pool} pool rows, got {len(sources)}")
        # The first row of every source, then the second of every source, ...; by chance which source comes first.
        order = order[np.argsort(_nth_of_its_label(np.array(sources)[order]), kind="stable")]
    return Picks(order[:n_examples], np.zeros(n_examples))


def _nth_of_its_label(labels: np.ndarray) -> np.ndarray:
    """How many equal labels stand before each label."""
    by_label = np.argsort(labels, kind="stable")
    _, counts = np.unique(labels, return_counts=True)
    nth = np.empty(len(labels), np.int64)
    nth[by_label] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return nth
