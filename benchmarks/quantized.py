"""Stores of each dtype: bytes, seconds of scoring, and how many of the float16 picks stay.

On made-up rows, or with --workspace on the gradient features of a real one, whose float16 stores are converted in a
temporary folder.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.common import Report, Settings, Side, measure
from tamis.selectors import round_robin, top_k
from tamis.similarity import similarity
from tamis.store import FeatureStore
from tamis.store.convert import convert
from tamis.store.files import list_shards
from tamis.store.quantize import STORE_DTYPES, StoreDtype

_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Features:
    """Target rows and a float16 pool store of each checkpoint, and the pool rows that all of them have."""

    targets: list[np.ndarray]
    pools: list[FeatureStore]
    lr_weights: list[float]
    ids: list[str]


def run(settings: Settings) -> Report:
    """Each dtype in turn, against one float32 product of the same sizes, and against reading the files."""
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        folder = Path(scratch)
        given = _made_up(settings, folder) if settings.workspace is None else _of_workspace(settings.workspace, folder)
        rows = _compare(given, settings)
    n_target, dim = given.targets[0].shape
    title = f"{len(given.pools)} checkpoints, {n_target} targets × {len(given.ids):,} rows of {dim}, by store dtype"
    return Report(title, "int8 keeps 95% of the picks in half the bytes; scoring at 0.6 of the product's rate", rows)


def _compare(given: Features, settings: Settings) -> list[dict[str, Any]]:
    stores = {
        dtype: given.pools if dtype == "float16" else [convert(store.folder, dtype).store for store in given.pools]
        for dtype in STORE_DTYPES
    }
    n_target, n_pool = len(given.targets[0]), len(given.ids)
    matrices = {dtype: np.empty((n_target, n_pool), np.float32) for dtype in STORE_DTYPES}
    pool = given.pools[0].rows(given.ids)
    product = np.empty((n_target, n_pool), np.float32)
    buffer = bytearray(max(path.stat().st_size for store in given.pools for path in list_shards(store.folder)))

    def score(dtype: StoreDtype) -> None:
        shards = [store.shards(given.ids) for store in stores[dtype]]
        similarity(given.targets, shards, given.lr_weights, n_pool, out=matrices[dtype])

    def read(dtype: StoreDtype) -> None:
        for store in stores[dtype]:
            for path in list_shards(store.folder):
                with Path(str(path)).open("rb", buffering=0) as file:
                    file.readinto(buffer)

    def multiply() -> None:
        for target in given.targets:
            np.matmul(target, pool.T, out=product)

    sides = {"product": Side(multiply)}
    for dtype in STORE_DTYPES:
        sides[f"{dtype} score"] = Side(partial(score, dtype))
        sides[f"{dtype} read"] = Side(partial(read, dtype))
    with threadpool_limits(torch.get_num_threads()):
        seconds = {name: side.seconds for name, side in measure(sides, settings).items()}
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    n_picks = max(1, int(_SHARE * n_pool))
    picks = {
        dtype: [select(matrix, n_examples=n_picks).indices for select in (top_k, round_robin)]
        for dtype, matrix in matrices.items()
    }
    return [
        {
            "case": dtype,
            "MB": sum(path.stat().st_size for store in stores[dtype] for path in list_shards(store.folder)) / 1e6,
            "score seconds": median[f"{dtype} score"],
            "product seconds": median["product"],
            "read seconds": median[f"{dtype} read"],
            "of the product's rate": median["product"] / median[f"{dtype} score"],
            "kept by top_k": _kept(picks["float16"][0], picks[dtype][0]),
            "kept by round_robin": _kept(picks["float16"][1], picks[dtype][1]),
            "largest error": float(np.abs(matrices[dtype] - matrices["float16"]).max()),
            "picks": n_picks,
            "seconds": {
                "score": seconds[f"{dtype} score"],
                "read": seconds[f"{dtype} read"],
                "product": seconds["product"],
            },
        }
        for dtype in STORE_DTYPES
    ]


def _kept(float16: np.ndarray, picks: np.ndarray) -> float:
    return len(np.intersect1d(float16, picks)) / len(float16)


def _made_up(settings: Settings, folder: Path) -> Features:
    """Rows around a few directions, as those of real gradients are; the targets lie around the same."""
    n_pool, n_target, dim, n_rows = (400, 9, 64, 64) if settings.quick else (20_000, 50, 4_096, 512)
    rng = np.random.default_rng(0)
    targets, pools = [], []
    ids = [f"{number:032x}" for number in range(n_pool)]
    for number in range(2):
        directions = rng.standard_normal((20, dim), np.float32)
        store = FeatureStore.open(folder / str(number), {"dim": dim, "checkpoint": number})
        for some in store.plan(ids, n_rows):
            rows, norm = _around(directions, len(some), rng)
            store.write(some, rows, norm, np.ones(len(some), np.int32), some, {})
        targets.append(_around(directions, n_target, rng)[0])
        pools.append(store)
    return Features(targets, pools, [0.6, 0.4], ids)


def _around(directions: np.ndarray, n_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mixture = rng.dirichlet(np.full(len(directions), 0.1), n_rows).astype(np.float32)
    rows = mixture @ directions + rng.standard_normal((n_rows, directions.shape[1]), np.float32)
    norm = np.linalg.norm(rows, axis=1)
    return rows / norm[:, None], norm


def _of_workspace(workspace: Path, folder: Path) -> Features:
    """Of each checkpoint the float16 gradient store with the most rows is the pool's, the one with the fewest holds the
    targets. The stores stay where they are: `folder` gets links to them.
    """
    by_checkpoint: dict[str, list[FeatureStore]] = {}
    for path in sorted((workspace / "features").iterdir()):
        store = FeatureStore.load(path)
        if store.recipe.get("kind") == "gradient" and store.store_dtype == "float16":
            (folder / path.name).symlink_to(path.absolute())
            linked = FeatureStore.load(folder / path.name)
            by_checkpoint.setdefault(store.recipe["checkpoint"], []).append(linked)
    facts = [json.loads(path.read_text()) for path in sorted(workspace.glob("checkpoints/*/*/checkpoint.json"))]
    rates = {fact["fingerprint"]: fact["mean_learning_rate"] for fact in facts if fact["fingerprint"] in by_checkpoint}
    if not rates or any(len(by_checkpoint[checkpoint]) != 2 for checkpoint in rates):
        raise SystemExit(f"{workspace}: expected two float16 gradient stores, pool and target, of each checkpoint")
    pairs = [sorted(by_checkpoint[checkpoint], key=lambda store: len(store.held())) for checkpoint in rates]
    targets = [target for target, _ in pairs]
    pools = [pool for _, pool in pairs]
    target_ids = _held_by_all(targets)
    weights = [rate / sum(rates.values()) for rate in rates.values()]
    return Features([store.rows(target_ids) for store in targets], pools, weights, _held_by_all(pools))


def _held_by_all(stores: Sequence[FeatureStore]) -> list[str]:
    """Ids that have a row in each of these stores."""
    return sorted(set.intersection(*(store.held() - store.skipped().keys() for store in stores)))
