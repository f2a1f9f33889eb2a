"""Writing a feature store against computing the rows that go into it."""

import os
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Report, Settings, Side, measure, ratios
from benchmarks.workload import DEFAULTS, Workload, workload
from tamis.representations.compute import unit_rows
from tamis.store import FeatureStore
from tamis.store.files import list_shards


def run(settings: Settings) -> Report:
    """One shard of the default size, with its fsync, against the seconds its rows take."""
    work = workload(
        settings,
        rank=4 if settings.quick else 128,
        dtype="auto",
        n_batches=3,
    )
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        row = _compare(settings, work, Path(folder), n_rows=16 if settings.quick else DEFAULTS.shard_rows)
    return Report("writing shards against computing their rows", "at most 5 % of the seconds", [row])


def _compare(settings: Settings, work: Workload, folder: Path, n_rows: int) -> dict[str, Any]:
    rows, norm = unit_rows(np.random.default_rng(0).standard_normal((n_rows, work.dim), dtype=np.float32))
    n_tokens = np.full(n_rows, 75, np.int32)
    store = FeatureStore.open(folder / "store", {"dim": work.dim})
    number = count()

    def write() -> None:
        first = next(number) * n_rows
        ids = [f"{i:032x}" for i in range(first, first + n_rows)]
        store.write(ids, rows, norm, n_tokens, ids, {})

    def raw() -> None:
        with (folder / f"{next(number)}.raw").open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    write()
    n_bytes = list_shards(store.folder)[0].stat().st_size
    data = np.random.default_rng(1).bytes(n_bytes)
    sides = {"compute": Side(work.tamis, within=work.features), "write": Side(write), "raw": Side(raw)}
    seconds = {name: side.seconds for name, side in measure(sides, settings).items()}
    compute = [s / len(work.encoded) * n_rows for s in seconds["compute"]]
    return {
        "case": f"{n_rows} rows of {work.dim}; {work.name}",
        "compute seconds": min(compute),
        "write seconds": min(seconds["write"]),
        **ratios(seconds["write"], compute),
        "write MB/s": n_bytes / min(seconds["write"]) / 1e6,
        "write and fsync alone MB/s": n_bytes / min(seconds["raw"]) / 1e6,
        "bytes": n_bytes,
        "seconds": seconds,
    }
