"""What Ray costs on one machine: `tamis select` by LESS, by this process and by as many of Ray's workers as cores."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Settings, ratios
from tamis.testbed import MODEL, write_testbed

_SETTINGS = (
    *(
        "--budget",
        "20",
        "--progress",
        "plain",
        "warmup.epochs=2",
        "warmup.min_examples=40",
        "warmup.learning_rate=3e-3",
    ),
    *("warmup.lora_rank=16", "warmup.lora_alpha=32", "represent.shard_rows=128"),
)


def run(settings: Settings) -> Report:
    """A whole run from empty workspaces: one thread against one worker, and two threads against two workers."""
    settings.scratch.mkdir(parents=True, exist_ok=True)
    n_cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        rows = [_compare(settings, Path(folder), n) for n in (1, 2)[: 1 if settings.quick else n_cores]]
    return Report("whole runs by Ray's workers against this process, the same cores", "at most 15 % longer", rows)


def _compare(settings: Settings, folder: Path, n_workers: int) -> dict[str, Any]:
    pool, target, _ = write_testbed(folder, "capitals")
    sides = {
        "local": (f"engine.threads_per_worker={n_workers}",),
        "ray": (f"engine.workers={n_workers}", "engine.threads_per_worker=1"),
    }
    limit = 60 if settings.quick else 3000
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, dict[str, bytes]] = {}
    for turn in range(settings.rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                words = ("--pool", pool, "--target", target, "--model", settings.model or MODEL, "--limit", limit)
                where = ("--workspace", f"{own}/ws", "--out", f"{own}/out", "--device", settings.device.type)
                start = time.perf_counter()
                command = [sys.executable, "-m", "tamis.cli", "select", *words, *where, *_SETTINGS, *sides[name]]
                subprocess.run([str(word) for word in command], check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - start)
                found[name] = {path.name: path.read_bytes() for path in Path(own).rglob("*.safetensors")}
    return {
        "case": f"{limit:,} rows, {n_workers} core" + "s" * (n_workers > 1),
        "local seconds": min(seconds["local"]),
        "ray seconds": min(seconds["ray"]),
        **ratios(seconds["ray"], seconds["local"]),
        "same stores": int(found["local"] == found["ray"]),  # not of two threads and two workers: the last bit differs
        "seconds": seconds,
    }
