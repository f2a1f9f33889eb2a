"""Laws of the random projections."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.representations import projection as module
from tamis.representations.projection import Rademacher, Sketch, projection, rotations, signs

CPU = torch.device("cpu")
SIZES = {"layer.a": 150, "layer.b": 37, "layer.c": 64}


def vectors(n_rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n_rows, size, generator=generator) for name, size in SIZES.items()}


def project(kind, values, dim=16, seed=0, names=None, blocks=1):
    """Whole parameters, or each in several blocks."""
    p = projection(kind, dim, seed, SIZES, CPU)
    out = torch.zeros(len(next(iter(values.values()))), p.dim)
    for name in names or SIZES:
        step = SIZES[name] if blocks == 1 else -(-SIZES[name] // blocks // dim) * dim or dim
        for start in range(0, SIZES[name], step):
            p.add_(out, name, start, values[name][:, start : start + step].clone())
    return out


def dense_sketch(dim: int, seed: int) -> np.ndarray:
    """The sketch's matrix, written down coordinate by coordinate from its definition."""
    columns = []
    for name, size in SIZES.items():
        sign, turn = signs(seed, name, 0, size), rotations(seed, name, -(-size // dim), dim)
        for i in range(size):
            column = np.zeros(dim)
            column[(i % dim + turn[i // dim]) % dim] = sign[i]
            columns.append(column)
    return np.array(columns).T


def test_signs_and_rotations_are_pinned():
    """These bits are a promise: stores written by any version hold rows projected with them."""
    assert signs(0, "a", 0, 16).tolist() == [1, -1, -1, 1, -1, 1, 1, 1, -1, 1, -1, -1, 1, 1, 1, -1]
    assert rotations(0, "a", 4, 8192).tolist() == [8136, 269, 8162, 618]


@given(st.integers(0, 2**40), st.integers(0, 700), st.integers(1, 700))
@settings(deadline=None, max_examples=50)
def test_signs_are_addressed_by_offset(base, skip, n):
    whole = signs(3, "weight", base, skip + n)
    assert np.array_equal(signs(3, "weight", base + skip, n), whole[skip:])
    assert set(np.unique(whole)) <= {-1, 1}


def test_signs_beyond_two_to_the_32_are_their_own():
    low, high = signs(0, "w", 5, 1000), signs(0, "w", 2**32 + 5, 1000)
    assert abs(np.mean(low == high) - 0.5) < 0.08


def test_signs_depend_on_seed_and_name_and_are_balanced():
    one, other_seed, other_name = signs(0, "w", 0, 20000), signs(1, "w", 0, 20000), signs(0, "v", 0, 20000)
    assert abs(one.mean()) < 0.03
    assert abs(np.mean(one == other_seed) - 0.5) < 0.02
    assert abs(np.mean(one == other_name) - 0.5) < 0.02


def test_sketch_equals_its_definition():
    values = vectors(3)
    matrix = torch.from_numpy(dense_sketch(16, seed=5)).float()
    expected = torch.cat([values[name] for name in SIZES], 1) @ matrix.T
    torch.testing.assert_close(project("sketch", values, seed=5), expected, rtol=1e-5, atol=1e-5)


def test_rademacher_equals_its_definition():
    values = vectors(3)
    matrix = np.concatenate([signs(2, name, 0, size * 16).reshape(size, 16) for name, size in SIZES.items()])
    expected = torch.cat([values[name] for name in SIZES], 1) @ torch.from_numpy(matrix).float() / math.sqrt(16)
    torch.testing.assert_close(project("rademacher", values, seed=2), expected, rtol=1e-5, atol=1e-5)


def test_none_keeps_the_parameters_in_the_order_of_their_names():
    values = vectors(2)
    assert torch.equal(project("none", values), torch.cat([values[name] for name in sorted(SIZES)], 1))


@pytest.mark.parametrize("kind", ["sketch", "rademacher", "none"])
def test_independent_of_batch_blocks_and_order_of_parameters(kind):
    values = vectors(5)
    whole = project(kind, values)
    alone = torch.cat([project(kind, {name: v[i : i + 1] for name, v in values.items()}) for i in range(5)])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(project(kind, values, names=list(SIZES)[::-1]), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(project(kind, values, blocks=3), whole, rtol=1e-5, atol=1e-5)


def test_the_two_ways_of_adding_chunks_agree():
    """Slices on a CPU, gather on a GPU: one function, checked here against each other."""
    values = torch.randn(4, 150, generator=torch.Generator().manual_seed(1))
    sign = torch.from_numpy(signs(0, "w", 0, 150)).float()
    turns = rotations(0, "w", 10, 16)
    slices, gather = torch.zeros(4, 16), torch.zeros(4, 16)
    module._add_by_slices(slices, values.clone(), sign, turns)
    module._add_by_gather(gather, values.clone(), sign, turns)
    torch.testing.assert_close(slices, gather, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sketch", "rademacher"])
def test_unbiased_with_the_stated_variance(kind):
    """Over many seeds: mean of ⟨Πx, Πy⟩ is ⟨x, y⟩, and its variance the formula in the class's docstring."""
    values, dim, n_seeds = vectors(2, seed=4), 16, 1500
    x, y = (torch.cat([values[name][i] for name in SIZES]).double().numpy() for i in range(2))
    y = y + 0.5 * x
    for i, name in enumerate(SIZES):
        start = sum(list(SIZES.values())[:i])
        values[name][1] = torch.from_numpy(y[start : start + SIZES[name]])
    products = np.array([float(p[0] @ p[1]) for p in (project(kind, values, dim, seed) for seed in range(n_seeds))])
    exact = x @ y
    norms = (x @ x) * (y @ y)
    if kind == "sketch":
        inside, start = 0.0, 0
        for size in SIZES.values():
            for chunk in range(start, start + size, dim):
                xc, yc = x[chunk : min(chunk + dim, start + size)], y[chunk : min(chunk + dim, start + size)]
                inside += (xc @ xc) * (yc @ yc) + (xc @ yc) ** 2
            start += size
        variance = (norms + exact**2 - inside) / dim
        assert variance <= (norms + exact**2 - 2 * (x**2) @ (y**2)) / dim
    else:
        variance = (norms + exact**2 - 2 * (x**2) @ (y**2)) / dim
    assert abs(products.mean() - exact) < 4 * math.sqrt(variance / n_seeds), "biased: are signs shared or reused?"
    assert abs(products.var() / variance - 1) < 0.15, "variance off: do chunks share a rotation?"


def test_one_chunk_keeps_inner_products_exactly():
    """A parameter that fits one chunk is only signed and turned."""
    p = projection("sketch", 64, 0, {"w": 50}, CPU)
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(3, 64)
    p.add_(out, "w", 0, values.clone())
    torch.testing.assert_close(out @ out.T, values @ values.T, rtol=1e-5, atol=1e-5)


def test_blocks_are_whole_chunks_and_memory_is_bounded():
    sketch = projection("sketch", 64, 0, {"w": 10**6}, CPU)
    assert isinstance(sketch, Sketch)
    assert sketch.block(1) % 64 == 0
    assert sketch.block(10**6) == 64
    assert isinstance(projection("rademacher", 8192, 0, SIZES, CPU), Rademacher)
    assert projection("rademacher", 8192, 0, SIZES, CPU).block(1) * 8192 * 4 <= 2**26


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        projection("sketch", 0, 0, SIZES, CPU)
