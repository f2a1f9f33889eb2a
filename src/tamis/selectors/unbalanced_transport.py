"""Optimal transport of the targets' mass onto a pool that may be used unevenly."""

import math

import numpy as np
from jaxtyping import Float, Float64

from tamis.selectors.picks import Picks, best, check_similarity

_BLOCK_BYTES = 1 << 20  # of one block of the plan, so that it stays in the cache
_TOLERANCE = 1e-10  # of the logarithm of a target's scaling
_MAX_PASSES = 10_000
_LARGEST_EXPONENT = 300.0  # below it no product of the scalings and the kernel leaves float64's range


def unbalanced_transport(
    similarity: Float[np.ndarray, "target pool"],
    *,
    n_examples: int,
    epsilon: float = 0.01,
    target_weight: float = math.inf,
    pool_weight: float = 1e-4,
    memory_bytes: int = 1 << 28,
) -> Picks:
    """The pool rows that receive the most mass from the targets; ties to the lowest pool index.

    The plan P minimises   ⟨C, P⟩ + ε·KL(P | a⊗b) + target_weight·KL(P1 | a) + pool_weight·KL(Pᵀ1 | b)
    with cost C = (1 − S)/2 and a, b uniform; an infinite weight holds that marginal exactly. Scores are the received
    mass Pᵀ1. A smaller n_examples is a prefix of a larger one.

    ValueError for similarities that are not finite, n_examples out of range, an ε or a weight that is not above 0, or
    scalings that do not converge.

    Source: Chizat et al., Scaling algorithms for unbalanced optimal transport, arXiv 1607.05816 (algorithm 1, in the
    log domain where similarities are large). The matrix is walked once per iteration, in blocks of pool rows;
    memory grows with its two sides. The kernel is held where it takes up to `memory_bytes`, which changes no pick. With
    the default weights an iteration leaves 1% of the error.

    >>> unbalanced_transport(np.array([[0.9, 0.2, 0.1], [0.8, 0.9, 0.1]]), n_examples=2).indices
    array([0, 1])
    """
    check_similarity(similarity, n_examples)
    for name, value in (("epsilon", epsilon), ("target_weight", target_weight), ("pool_weight", pool_weight)):
        if not value > 0 or (name == "epsilon" and math.isinf(value)):
            raise ValueError(f"expected {name} above 0, got {value}")
    exponents = _exponent(target_weight, epsilon), _exponent(pool_weight, epsilon)
    _, log_mass = _solve(similarity, epsilon, *exponents, memory_bytes)
    indices = best(log_mass, n_examples)
    return Picks(indices, np.exp(log_mass[indices]))


def _exponent(weight: float, epsilon: float) -> float:
    return 1.0 if math.isinf(weight) else weight / (weight + epsilon)


def _solve(
    similarity: np.ndarray, epsilon: float, target_exponent: float, pool_exponent: float, memory_bytes: int
) -> tuple[Float64[np.ndarray, " target"], Float64[np.ndarray, " pool"]]:
    """log u and log mass of the plan P_tj = u_t·exp(S_tj/2ε)·v_j.

    The factor exp(−1/2ε) of the kernel is left to the scalings' constant: it moves log a and log b by 1/2ε each way.
    """
    n_target, n_pool = similarity.shape
    log_a, log_b = -math.log(n_target), -math.log(n_pool)
    # With a soft marginal the constant matters: exp(−C/ε)·a_t·b_j = exp(S/2ε)·exp(log_a + log_b − 1/2ε)
    constant = log_a + log_b - 1 / (2 * epsilon)
    highest = np.array([row.max() for row in similarity], np.float64) / (2 * epsilon)
    lowest = min(float(row.min()) for row in similarity) / (2 * epsilon)
    log_u = -highest - constant
    log_mass = np.empty(n_pool)
    n_columns = max(2, _BLOCK_BYTES // (8 * n_target))
    is_held = 8 * n_target * n_pool <= memory_bytes
    held: dict[int, np.ndarray] = {}
    for _ in range(_MAX_PASSES):
        shift = log_u + constant
        is_small = max(-lowest - shift.min(), highest.max() + shift.max(), highest.max(), -lowest) < _LARGEST_EXPONENT
        scaling, row_sums = np.exp(shift) if is_small else np.ones(n_target), np.zeros(n_target)
        for start in range(0, n_pool, n_columns):
            part = similarity[:, start : start + n_columns]
            top = np.zeros(part.shape[1])
            if is_small and start in held:
                block = held[start]
            else:
                block = part.astype(np.float64)
                block /= 2 * epsilon
                if not is_small:
                    block += shift[:, None]
                    top = block.max(axis=0)
                    block -= top
                np.exp(block, out=block)
                if is_small and is_held:
                    held[start] = block
            log_received = top + np.log(_column_sums(block, scaling))
            log_v = pool_exponent * (log_b - log_received)
            log_mass[start : start + len(top)] = log_v + log_received
            row_sums += scaling * (block @ np.exp(log_v + top))
        step = target_exponent * (log_a - np.log(row_sums) + log_u) - log_u
        log_u = log_u + step
        if np.abs(step).max() < _TOLERANCE:
            return log_u, log_mass
    raise ValueError(
        f"expected scalings that converge, got a change of {np.abs(step).max():.1e} after {_MAX_PASSES} iterations; "
        "raise epsilon or lower the weights"
    )


def _column_sums(
    block: Float64[np.ndarray, "target column"], scaling: Float64[np.ndarray, " target"]
) -> Float64[np.ndarray, " column"]:
    """scaling @ block, such that equal columns have equal sums.

    BLAS gives them sums that differ in the last bit, by where they stand; and einsum adds up a single column in another
    order.
    """
    sums: np.ndarray = np.einsum("tp,t->p", np.repeat(block, 2, axis=1) if block.shape[1] == 1 else block, scaling)
    return sums[: block.shape[1]]
