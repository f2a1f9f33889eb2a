"""`tamis select` from a store of a million made-up rows: seconds and peak memory, and the same picks as in memory.

The command is the user's, in a process of its own; its peak is the kernel's count of resident memory, mapped pages
included. Pool, target and store are made here: rows of text as long as those of a mixed pool of instruction data (800
bytes, log-normal), unit features around 200 centres, a warm-up of the embedded testbed model.

The picks are compared on a slice, the first rows of the pool, with those of the selectors called on plain arrays: all
features in memory as float32, one matrix product, nothing streamed. knn_kde is left out of the full size: the densities
of some 400,000 rows of 512 dims are 84 TFLOP (see the benchmark `selectors`).
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import Report, Settings, Spent, command_alone
from tamis import selectors
from tamis.config import load_config
from tamis.data.files import read
from tamis.methods import parse_method
from tamis.pipeline import Pipeline
from tamis.store import FeatureStore
from tamis.testbed import MODEL

_METHODS = ("less", "less+round_robin", "less+unbalanced_transport", "less+knn_uniform", "tagcos")
_QUICK_METHODS = ("less+knn_kde", "tagcos")
_MEMORY = "512MB"  # what similarities and features may take of it
_SHARD_ROWS = 512
_N_TARGET, _N_GROUPS, _N_CENTRES = 81, 9, 200
_WARMUP = {
    "warmup.min_examples": 64,
    "warmup.epochs": 1,
    "warmup.warmup_ratio": 0,
    "warmup.lora_rank": 4,
    "warmup.lora_alpha": 8,
}


@dataclass(frozen=True, slots=True)
class _Made:
    """What is made up, and the settings every command shares."""

    settings: dict[str, Any]
    n_pool: int
    n_slice: int
    stores: tuple[FeatureStore, FeatureStore]  # target, pool


def run(settings: Settings) -> Report:
    """One row a method."""
    n_pool, dim, n_slice = (2_000, 32, 500) if settings.quick else (1_000_000, 512, 20_000)
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        made = _make(Path(folder), n_pool, dim, n_slice)
        rows = [_measure(Path(folder), made, method) for method in (_QUICK_METHODS if settings.quick else _METHODS)]
    return Report(
        title=f"select from a store of {n_pool:,} rows × {dim}, {_N_TARGET} targets, 5%, --memory {_MEMORY}",
        target="at most 2,000 MB peak; the same picks as in memory on a slice",
        rows=rows,
    )


def _measure(folder: Path, made: _Made, method: str) -> dict[str, Any]:
    for path in (folder / "ws" / "similarity").glob("*"):
        path.unlink()  # each method scores anew
    spent, _ = _select(folder, made, method, {})
    _, picked = _select(folder, made, method, {"data.limit": made.n_slice})
    expected = _in_memory(made, method, len(picked))
    same = len(set(picked) & set(expected)) / len(picked)
    if same < 1:
        raise SystemExit(f"{method}: {same:.2%} of the picks of the slice are those of the selector in memory")
    return {
        "case": method,
        "seconds": spent.seconds,
        "peak MB": spent.peak_mb,
        "picks of the slice": len(picked),
        "the same in memory": same,
        "in the same order": float(np.mean(np.array(picked) == np.array(expected))),
    }


def _select(folder: Path, made: _Made, method: str, changes: dict[str, Any]) -> tuple[Spent, list[str]]:
    """What the command took, and its picks."""
    given = {**made.settings, "pick.method": method, "memory": _MEMORY, "out": str(folder / "picked"), **changes}
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    command = [sys.executable, "-m", "tamis.cli", "select", "--progress", "plain", *words]
    spent = command_alone(command)
    picks = pq.read_table(folder / "picked" / "picks.parquet", columns=["id"])["id"].to_pylist()
    return spent, picks


def _in_memory(made: _Made, method: str, n_examples: int) -> list[str]:
    """The picks of the selector called on plain arrays."""
    targets = read(made.settings["data.target"]).examples
    pool = read(made.settings["data.pool"], limit=made.n_slice).examples
    ids = [e.id for e in pool]
    target_rows, pool_rows = made.stores[0].rows([e.id for e in targets]), made.stores[1].rows(ids)
    similarity = target_rows @ pool_rows.T
    given: dict[str, dict[str, Any]] = {
        "top_k": {"groups": [e.group for e in targets]},
        "knn_kde": {"pool_features": [pool_rows], "lr_weights": [1.0]},
    }
    name = parse_method(method).selector
    select: Callable[..., selectors.Picks] = getattr(selectors, name)
    first = pool_rows if name == "tagcos" else similarity
    return [ids[i] for i in select(first, n_examples=n_examples, **given.get(name, {})).indices]


# ---- made up -------------------------------------------------------------------------------------------------------


def _make(folder: Path, n_pool: int, dim: int, n_slice: int) -> _Made:
    pool, target = folder / "pool.jsonl", folder / "target.jsonl"
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, np.exp(rng.normal(4.4, 0.9, n_pool))).astype(int).tolist()
    for path, n_words in ((pool, lengths), (target, [6] * _N_TARGET)):
        with path.open("w") as file:
            file.writelines(_lines(rng, n_words, path.stem))
    settings: dict[str, Any] = {
        "data.pool": [str(pool)],
        "data.target": [str(target)],
        "model.name": str(MODEL),
        "represent.dim": dim,
        "represent.shard_rows": _SHARD_ROWS,
        "workspace": str(folder / "ws"),
    }
    # A real run on the target's rows makes the warm-up and both stores; the made-up rows then join the pool's.
    small = Pipeline(load_config(None, {**settings, **_WARMUP, "data.pool": [str(target)], "pick.keep_leaks": True}))
    target_store, pool_store = small.represent_all()
    centres = rng.standard_normal((_N_CENTRES, dim))
    for shard in _shards(pool_store, pool):
        rows = centres[rng.integers(_N_CENTRES, size=len(shard))] + rng.standard_normal((len(shard), dim))
        norm = np.linalg.norm(rows, axis=1)
        unit = (rows / norm[:, None]).astype(np.float32)
        pool_store.write(shard, unit, norm.astype(np.float32), np.full(len(shard), 75, np.int32), shard, {})
    settings["warmup.checkpoints"] = str(small.checkpoints[0].folder.parent)
    return _Made(settings, n_pool, n_slice, (target_store, pool_store))


def _shards(store: FeatureStore, pool: Path) -> Iterator[tuple[str, ...]]:
    yield from store.plan([e.id for e in read([str(pool)]).examples], _SHARD_ROWS)


def _lines(rng: np.random.Generator, lengths: Sequence[int], name: str) -> Iterator[str]:
    """Conversations of so many made-up words, of 12 sources."""
    words = np.array(["".join(rng.choice(list("aeioubdfgklmnprstvz"), rng.integers(2, 9))) for _ in range(20_000)])
    for row, length in enumerate(lengths):
        text = words[rng.integers(len(words), size=length)].tolist()
        question, answer = " ".join(text[: length // 2]), " ".join(text[length // 2 :])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        labels = {"id": f"{name}-{row}", "source": f"source-{row % 12}", "subtask": f"group-{row % _N_GROUPS}"}
        yield json.dumps({**labels, "messages": messages}) + "\n"
