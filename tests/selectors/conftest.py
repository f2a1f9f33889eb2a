"""Picks of the published reference implementations on one made-up input."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Golden:
    similarity: np.ndarray  # [target, pool]
    pool_features: list[np.ndarray]  # one [pool, dim] per checkpoint
    lr_weights: np.ndarray
    clusters: np.ndarray  # [pool]
    picks: dict[str, Any]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def golden() -> Golden:
    rng = np.random.default_rng(7)
    n_target, n_pool, dim, n_clusters = 12, 6000, 32, 20
    centres = rng.standard_normal((n_clusters, dim))
    clusters = rng.integers(0, n_clusters, n_pool)
    spread = rng.uniform(0.05, 1.2, (n_pool, 1))
    pool_base = centres[clusters] + spread * rng.standard_normal((n_pool, dim))
    target_base = centres[rng.integers(0, 3, n_target)] + 0.3 * rng.standard_normal((n_target, dim))
    lr_weights = np.array([0.5, 0.3, 0.2])
    similarity = np.zeros((n_target, n_pool))
    pool_features = []
    for lr_weight in lr_weights:
        pool = unit(pool_base + 0.1 * rng.standard_normal((n_pool, dim)))
        target = unit(target_base + 0.1 * rng.standard_normal((n_target, dim)))
        similarity += lr_weight * (target.astype(np.float64) @ pool.astype(np.float64).T)
        pool_features.append(pool)
    picks = json.loads((Path(__file__).parents[1] / "golden" / "selectors.json").read_text())
    built = similarity.astype(np.float32)
    np.testing.assert_allclose([built[0, 0], built[11, 5999], built[6, 2000]], picks["S_sample"], rtol=1e-6)
    return Golden(built, pool_features, lr_weights, clusters, picks)
