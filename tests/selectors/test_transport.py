import math
import sys

import numpy as np
import ot
import pytest

from tamis.selectors import unbalanced_transport
from tamis.selectors.unbalanced_transport import _exponent, _solve


def made_up(n_target: int = 5, n_pool: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n_target, n_pool)).astype(np.float32)


def plan(similarity: np.ndarray, epsilon: float, target_weight: float, pool_weight: float) -> np.ndarray:
    """The plan in full, from the target's scalings and the pool's masses."""
    exponents = _exponent(target_weight, epsilon), _exponent(pool_weight, epsilon)
    log_u, log_mass = _solve(similarity, epsilon, *exponents, memory_bytes=0)
    share = similarity.astype(np.float64) / (2 * epsilon) + log_u[:, None]
    share -= np.logaddexp.reduce(share, axis=0)
    return np.exp(share + log_mass)


SETTINGS = [
    (0.01, math.inf, 1e-4),
    (0.1, math.inf, 0.05),
    (0.05, 0.3, 0.02),
    (0.2, 0.5, math.inf),
    (0.3, math.inf, 3.0),
]


@pytest.mark.parametrize(("epsilon", "target_weight", "pool_weight"), SETTINGS)
def test_the_plan_satisfies_the_optimality_conditions(epsilon, target_weight, pool_weight) -> None:
    """In each cell C + ε·log(P/ab) + w_target·log(P1/a) + w_pool·log(Pᵀ1/b) = 0; a hard side's potential is free."""
    similarity = made_up().astype(np.float64)
    n_target, n_pool = similarity.shape
    p = plan(similarity, epsilon, target_weight, pool_weight)
    gradient = (1 - similarity) / 2 + epsilon * np.log(p * n_target * n_pool)
    rows, columns = p.sum(axis=1) * n_target, p.sum(axis=0) * n_pool
    if math.isinf(target_weight):
        np.testing.assert_allclose(rows, 1, rtol=1e-8)
        gradient -= gradient.mean(axis=1, keepdims=True)
        gradient += pool_weight * (np.log(columns) - np.log(columns).mean())
    elif math.isinf(pool_weight):
        np.testing.assert_allclose(columns, 1, rtol=1e-8)
        gradient -= gradient.mean(axis=0, keepdims=True)
        gradient += target_weight * (np.log(rows) - np.log(rows).mean())[:, None]
    else:
        gradient += target_weight * np.log(rows)[:, None] + pool_weight * np.log(columns)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize(("epsilon", "target_weight", "pool_weight"), SETTINGS)
def test_agrees_with_pot(epsilon, target_weight, pool_weight) -> None:
    similarity = made_up(seed=1)
    n_target, n_pool = similarity.shape
    expected = ot.unbalanced.sinkhorn_unbalanced(
        np.full(n_target, 1 / n_target),
        np.full(n_pool, 1 / n_pool),
        (1 - similarity.astype(np.float64)) / 2,
        epsilon,
        (target_weight, pool_weight),
        numItermax=20_000,
        stopThr=1e-13,
    )
    np.testing.assert_allclose(plan(similarity, epsilon, target_weight, pool_weight), expected, rtol=1e-6, atol=1e-12)
    given = {"epsilon": epsilon, "target_weight": target_weight, "pool_weight": pool_weight}
    picks = unbalanced_transport(similarity, n_examples=n_pool, **given)
    np.testing.assert_allclose(picks.scores, expected.sum(axis=0)[picks.indices], rtol=1e-6)
    if not math.isinf(pool_weight):  # else all rows receive the same
        assert (np.diff(picks.scores) <= 0).all()


def test_similarities_of_any_size_are_ranked_and_not_lost_to_overflow() -> None:
    similarity = np.array([[900.0, 400.0, -3000.0, 20.0], [1.0, 2.0, 3.0, 1e-3]])
    picks = unbalanced_transport(similarity, n_examples=4)
    assert picks.indices[:2].tolist() == [0, 2]
    assert np.isfinite(picks.scores).all()


def test_blocks_of_any_size_give_the_same_picks(monkeypatch) -> None:
    similarity = made_up(n_pool=500)
    picks = unbalanced_transport(similarity, n_examples=500)
    monkeypatch.setattr(sys.modules["tamis.selectors.unbalanced_transport"], "_BLOCK_BYTES", 700)
    again = unbalanced_transport(similarity, n_examples=500)
    np.testing.assert_array_equal(picks.indices, again.indices)
    np.testing.assert_allclose(picks.scores, again.scores, rtol=1e-12)


@pytest.mark.parametrize("name", ["epsilon", "target_weight", "pool_weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_refuses_weights_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} above 0, got {value}"):
        unbalanced_transport(made_up(), n_examples=2, **{name: value})


def test_says_so_when_the_scalings_do_not_converge(monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["tamis.selectors.unbalanced_transport"], "_MAX_PASSES", 2)
    with pytest.raises(ValueError, match="raise epsilon"):
        unbalanced_transport(made_up(), n_examples=2, epsilon=1e-3, pool_weight=math.inf)


def test_picks_what_the_published_code_picks(golden) -> None:
    assert unbalanced_transport(golden.similarity, n_examples=300).indices.tolist() == golden.picks["uot"]


@pytest.mark.parametrize("size", [1.0, 40.0])
def test_memory_changes_no_number(size: float) -> None:
    """With similarities of 40 the kernel leaves the range in which it is held."""
    similarity = (size * np.random.default_rng(3).uniform(-1, 1, (5, 400))).astype(np.float32)
    little, much = (unbalanced_transport(similarity, n_examples=400, memory_bytes=m) for m in (0, 1 << 20))
    np.testing.assert_array_equal(little.indices, much.indices)
    np.testing.assert_array_equal(little.scores, much.scores)
