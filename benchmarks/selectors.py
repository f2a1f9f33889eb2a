"""Every selector against the plain way of writing it, and the heavy parts of some against this machine's limits.

The pool is unit rows of 50 clusters, tight and loose ones; the targets lie near a few of them. Threads of NumPy and
scikit-learn are those of PyTorch (--threads).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits

from benchmarks import plain_selectors as plain
from benchmarks.common import Once, Report, Settings, Side, in_child, measure, ratios
from tamis import selectors
from tamis.selectors.density import density
from tamis.similarity import similarity

_N_GROUPS = 9
_N_SOURCES = 12
_N_CENTRES = 50
_N_CHECKED = 5_000  # rows of the pool on which picks are compared where the plain way runs in part only
_SLOW_SECONDS = 20  # of both sides together: what is slower runs once


@dataclass(frozen=True, slots=True)
class _Made:
    """Unit rows, and the similarity of targets to them; how many rows and clusters the coresets are to take."""

    pool: np.ndarray
    similarity: np.ndarray
    n_few: int
    n_clusters: int


@dataclass(frozen=True, slots=True)
class _Case:
    """`parts`: the plain way does one of so many equal parts. `in_order`: both sides should pick in the same order."""

    name: str
    tamis: Callable[[], selectors.Picks]
    plain: Callable[[], np.ndarray]
    in_order: bool = False
    parts: int = 1


def run(settings: Settings) -> Report:
    """One row a selector; each side's first run is in a process of its own, which tells its memory."""
    n_pool, parts = (1_000, 2) if settings.quick else (200_000, 100)
    n_few = 100 if settings.quick else 1_000
    made = _made(n_pool, n_few)
    small = _made(min(_N_CHECKED, n_pool), n_few)
    rows = []
    with threadpool_limits(torch.get_num_threads()):
        pairs = list(zip(_cases(made, parts), _cases(small, 1), strict=True))
        # All of these before any timing here, so that the children start with as little memory as can be
        firsts = [(in_child(case.tamis), in_child(case.plain)) for case, _ in pairs]
        for (case, small_case), (ours, theirs) in zip(pairs, firsts, strict=True):
            compared = (ours.result, theirs.result) if case.parts == 1 else (small_case.tamis(), small_case.plain())
            same = _same(case.name, *compared, in_order=case.in_order)
            rows.append(_row(case, ours, theirs, same, settings))
    n_target, dim = len(made.similarity), made.pool.shape[1]
    return Report(
        title=f"each selector's seconds against the plain way's, pool {n_pool:,} × {n_target} targets, dim {dim}",
        target="at most 1 times the plain way's; round robin's complete order in at most 2 s",
        rows=rows,
    )


def run_million(settings: Settings) -> Report:
    """Ours alone, once each: a million rows where memory allows, without what is hopeless there."""
    n_pool = 2_000 if settings.quick else 1_000_000 if psutil.virtual_memory().available >= 8e9 else 200_000
    made = _made(n_pool, n_few=100 if settings.quick else 1_000)
    rows = []
    with threadpool_limits(torch.get_num_threads()):
        for case in _cases(made, 1):
            if not case.name.startswith("facility_location"):  # all pairs: hours
                once = in_child(case.tamis)
                rows.append({"case": case.name, "tamis seconds": once.seconds, **_memory(tamis=once)})
    n_target, dim = len(made.similarity), made.pool.shape[1]
    return Report(
        title=f"each selector alone, pool {n_pool:,} × {n_target} targets, dim {dim}; facility_location is left out",
        target="none",
        rows=rows,
    )


def _cases(made: _Made, parts: int) -> Iterator[_Case]:
    s, pool = made.similarity, made.pool
    n_target, n_pool = s.shape
    n, few = n_pool // 20, made.n_few
    groups = [target * _N_GROUPS // n_target for target in range(n_target)]
    sources = [f"source-{row % _N_SOURCES}" for row in range(n_pool)]
    goal = pool.mean(axis=0, dtype=np.float64)
    yield _Case(
        f"top_k {n:,}",
        lambda: selectors.top_k(s, n_examples=n, groups=groups),
        lambda: plain.top_k(s, groups, n),
    )
    yield _Case(
        f"doubly_greedy {n:,}",
        lambda: selectors.doubly_greedy(s, n_examples=n),
        lambda: plain.doubly_greedy(s, n),
        in_order=True,
    )
    yield _Case(
        f"round_robin {n_pool:,}",
        lambda: selectors.round_robin(s, n_examples=n_pool),
        lambda: plain.round_robin(s, n_pool),
        in_order=True,
    )
    yield _Case(
        f"unbalanced_transport {n:,}",
        lambda: selectors.unbalanced_transport(s, n_examples=n),
        lambda: plain.unbalanced_transport(s, n),
    )
    yield _Case(
        f"knn_uniform {n:,}",
        lambda: selectors.knn_uniform(s, n_examples=n),
        lambda: plain.knn_uniform(s, n),
        in_order=True,
    )
    yield _Case(
        f"knn_kde {n:,}",
        lambda: selectors.knn_kde(s, n_examples=n, pool_features=[pool], lr_weights=[1.0]),
        lambda: plain.knn_kde(s, pool, n),
    )
    yield _Case(
        f"matching_pursuit {few // 2:,}",
        lambda: selectors.matching_pursuit(pool, goal, n_examples=few // 2),
        lambda: plain.matching_pursuit(pool, goal, few // 2),
    )
    yield _Case(
        f"tagcos {n:,}",
        lambda: selectors.tagcos(pool, n_examples=n, n_clusters=made.n_clusters),
        lambda: plain.tagcos(pool, n, made.n_clusters),
    )
    yield _Case(
        f"k_center {few:,}",
        lambda: selectors.k_center(pool, n_examples=few),
        lambda: plain.k_center(pool, few),
    )
    yield _Case(
        f"herding {few:,}",
        lambda: selectors.herding(pool, n_examples=few),
        lambda: plain.herding(pool, few),
    )
    yield _Case(
        f"facility_location {few:,}" + (f", plain × {parts}" if parts > 1 else ""),
        lambda: selectors.facility_location(pool, n_examples=few),
        lambda: plain.facility_location(pool, few, n_pool // parts),
        parts=parts,
    )
    yield _Case(
        f"random {n:,}",
        lambda: selectors.random(n_pool, n_examples=n),
        lambda: plain.random(n_pool, n),
        in_order=True,
    )
    yield _Case(
        f"random {n:,}, balanced",
        lambda: selectors.random(n_pool, n_examples=n, sources=sources),
        lambda: plain.balanced(n_pool, n, sources),
        in_order=True,
    )


def _row(
    case: _Case, first: Once[selectors.Picks], plain_first: Once[np.ndarray], same: float, settings: Settings
) -> dict[str, Any]:
    ours, theirs = [first.seconds], [plain_first.seconds]
    if ours[0] + theirs[0] < _SLOW_SECONDS:
        measured = measure({"tamis": Side(case.tamis), "plain": Side(case.plain)}, settings)
        ours, theirs = measured["tamis"].seconds, measured["plain"].seconds
    theirs = [case.parts * seconds for seconds in theirs]
    return {
        "case": case.name,
        "tamis seconds": min(ours),
        "plain seconds": min(theirs),
        **ratios(ours, theirs),
        **_memory(tamis=first, plain=plain_first),
        "same picks": same,
        "all tamis seconds": ours,
        "all plain seconds": theirs,
    }


def _memory(**sides: Once[Any]) -> dict[str, float]:
    """Of whatever side the system tells it."""
    return {f"{name} peak MB": once.peak_mb for name, once in sides.items() if once.peak_mb is not None}


def _same(name: str, ours: selectors.Picks, theirs: np.ndarray, *, in_order: bool = False) -> float:
    """The share of picks that both sides have (in_order: at the same place); SystemExit if that is not nearly all."""
    if len(ours) != len(theirs):
        raise SystemExit(f"{name}: {len(ours)} picks, and {len(theirs)} by the plain way")
    if in_order:
        same = float(np.mean(ours.indices == theirs))
    else:
        same = len(np.intersect1d(ours.indices, theirs)) / len(theirs)
    if same < 0.95:
        raise SystemExit(f"{name}: {same:.2%} of the picks are those of the plain way")
    return same


# ---- parts against limits --------------------------------------------------------------------------------------------


def run_density(settings: Settings) -> Report:
    """knn_kde's pairwise part against the product of all pairs: one row where few rows are near, one of a crowd."""
    n, around, square = (400, 50, 128) if settings.quick else (32_768, 1_000, 2_048)
    with threadpool_limits(torch.get_num_threads()):
        rows = [_density(n, n_centres, around, square, settings) for n_centres in (_N_CENTRES, 5)]
    return Report(
        title=f"density of all rows, dim 64, {around:,} neighbours, against the float32 product of all pairs in blocks",
        target="at least 0.6 times its rate",
        rows=rows,
    )


def _density(n: int, n_centres: int, around: int, square: int, settings: Settings) -> dict[str, Any]:
    features = _clustered(np.random.default_rng(0), n, 64, n_centres)
    left, right = np.random.default_rng(1).standard_normal((2, square, square), np.float32)
    sides = {
        "tamis": Side(lambda: density([features], np.ones(1), np.arange(n), around, 0.75)),
        "plain": Side(lambda: plain.kernel_density(features, around)),
        "product": Side(lambda: _all_pairs(features)),
        "square": Side(lambda: left @ right),
    }
    seconds = {side: measured.seconds for side, measured in measure(sides, settings).items()}
    n_operations = 2 * n * n * features.shape[1]
    return {
        "case": f"{n:,} rows of {n_centres} clusters",
        "tamis seconds": min(seconds["tamis"]),
        "plain seconds": min(seconds["plain"]),
        "product seconds": min(seconds["product"]),
        **ratios(seconds["product"], seconds["tamis"]),
        "tamis GFLOP/s": n_operations / min(seconds["tamis"]) / 1e9,
        "product GFLOP/s": n_operations / min(seconds["product"]) / 1e9,
        f"{square:,}³ GFLOP/s": 2 * square**3 / min(seconds["square"]) / 1e9,
        "seconds": seconds,
    }


def _all_pairs(features: np.ndarray, block_rows: int = 1024) -> None:
    """In blocks of ours, written to one buffer."""
    n = len(features)
    out = np.empty((block_rows, block_rows), np.float32)
    for i in range(0, n, block_rows):
        rows = features[i : i + block_rows]
        for j in range(0, n, block_rows):
            columns = features[j : j + block_rows]
            np.matmul(rows, columns.T, out=out[: len(rows), : len(columns)])


def run_scoring(settings: Settings) -> Report:
    """The similarity of stored rows, float16 in shards, against its product in float32 and against copying the rows."""
    n_pool, n_target, dim, shard = (2_000, 9, 32, 64) if settings.quick else (200_000, 81, 512, 512)
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((n_target, dim), np.float32)
    pool = rng.standard_normal((n_pool, dim), np.float32)
    shards = [
        (np.arange(start, min(start + shard, n_pool)), pool[start : start + shard].astype(np.float16))
        for start in range(0, n_pool, shard)
    ]
    buffer = np.empty((shard, dim), np.float16)
    out = np.empty((n_target, n_pool), np.float32)

    def read() -> None:
        for _, rows in shards:
            buffer[: len(rows)] = rows

    sides = {
        "tamis": Side(lambda: similarity([targets], [shards], [1.0], n_pool, out=out)),
        "product": Side(lambda: np.matmul(targets, pool.T, out=out)),
        "read": Side(read),
    }
    with threadpool_limits(torch.get_num_threads()):
        seconds = {side: measured.seconds for side, measured in measure(sides, settings).items()}
    row = {
        "case": f"{n_target} targets × {n_pool:,} rows of {dim} float16, shards of {shard}",
        "tamis seconds": min(seconds["tamis"]),
        "product seconds": min(seconds["product"]),
        "read seconds": min(seconds["read"]),
        **ratios(seconds["product"], seconds["tamis"]),
        "of the reading rate": min(seconds["read"]) / min(seconds["tamis"]),
        "product GFLOP/s": 2 * n_target * n_pool * dim / min(seconds["product"]) / 1e9,
        "read GB/s": 2 * n_pool * dim / min(seconds["read"]) / 1e9,
        "seconds": seconds,
    }
    return Report("scoring against one float32 product of the same rows", "at least 0.6 times its rate", [row])


def run_pursuit(settings: Settings) -> Report:
    """Matching pursuit with wide rows against as many products of all rows with a vector; and with no columns ahead."""
    n, dim, n_picks = (300, 64, 10) if settings.quick else (10_000, 8_192, 500)
    rng = np.random.default_rng(0)
    rows = []
    with threadpool_limits(torch.get_num_threads()):
        for name in ("Gaussian", "decaying spectrum", "60 clusters"):
            a = _clustered(rng, n, dim, 60) if name == "60 clusters" else rng.standard_normal((n, dim), np.float32)
            if name == "decaying spectrum":
                a *= np.arange(1, dim + 1, dtype=np.float32) ** -0.5
            rows.append(_pursuit(name, a, n_picks, settings))
    return Report(
        title=f"matching pursuit of {n_picks} from {n:,} × {dim:,} against {n_picks} products with a vector",
        target="at most 1.1 times their seconds",
        rows=rows,
    )


def _pursuit(name: str, a: np.ndarray, n_picks: int, settings: Settings) -> dict[str, Any]:
    goal = a.mean(axis=0, dtype=np.float64)
    vector = goal.astype(np.float32)

    def products() -> None:
        for _ in range(n_picks):
            a @ vector

    found: dict[str, selectors.Picks] = {}

    def pursue(name: str, **given: int) -> None:
        found[name] = selectors.matching_pursuit(a, goal, n_examples=n_picks, **given)

    plainly: list[np.ndarray] = []
    sides = {
        "tamis": Side(lambda: pursue("tamis")),
        "none ahead": Side(lambda: pursue("none ahead", memory_bytes=0)),
        "products": Side(products),
        "plain": Side(lambda: plainly.append(plain.matching_pursuit(a, goal, n_picks))),
    }
    measured = measure(sides, settings, warm_up=settings.quick)  # each takes seconds
    seconds = {side: one.seconds for side, one in measured.items()}
    return {
        "case": name,
        "tamis seconds": min(seconds["tamis"]),
        "products seconds": min(seconds["products"]),
        **ratios(seconds["tamis"], seconds["products"]),
        "plain seconds": min(seconds["plain"]),
        "none ahead seconds": min(seconds["none ahead"]),
        "gain of computing ahead": min(seconds["none ahead"]) / min(seconds["tamis"]),
        "same picks": min(_same(name, picks, plainly[0]) for picks in found.values()),
        "seconds": seconds,
    }


# ---- made up ---------------------------------------------------------------------------------------------------------


def _made(n_pool: int, n_few: int, n_target: int = 81, dim: int = 64) -> _Made:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((_N_CENTRES, dim))
    pool = _around(rng, centres, n_pool, rng.uniform(0.05, 1.2, (n_pool, 1)))
    targets = _around(rng, centres[:5], n_target, np.full((n_target, 1), 0.3))
    return _Made(pool, targets @ pool.T, n_few, n_clusters=min(100, n_pool // 20))


def _clustered(rng: np.random.Generator, n: int, dim: int, n_centres: int) -> np.ndarray:
    return _around(rng, rng.standard_normal((n_centres, dim)), n, rng.uniform(0.05, 1.2, (n, 1)))


def _around(rng: np.random.Generator, centres: np.ndarray, n: int, spread: np.ndarray) -> np.ndarray:
    rows = centres[rng.integers(len(centres), size=n)] + spread * rng.standard_normal((n, centres.shape[1]))
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
