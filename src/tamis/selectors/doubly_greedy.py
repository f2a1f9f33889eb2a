"""The pool rows most similar to any one target."""

import numpy as np
from jaxtyping import Float

from tamis.selectors.picks import Picks, best, check_shape, finite_rows, highest


def doubly_greedy(similarity: Float[np.ndarray, "target pool"], *, n_examples: int) -> Picks:
    """The n_examples pool rows with the highest max over targets, descending; ties to the lowest pool index.

    The best cell of all comes first, whichever target's it is: a target that lies close to much of the pool may get all
    the picks; `round_robin` is its fair sister. A smaller n_examples is a prefix of a larger one.

    ValueError for similarities that are not finite, or n_examples out of range.

    >>> doubly_greedy(np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]]), n_examples=2).indices
    array([0, 1])
    """
    check_shape(similarity, n_examples)
    scores = highest(finite_rows(similarity))
    indices = best(scores, n_examples)
    return Picks(indices, scores[indices])
