"""`tamis plan` and then the run that it is about: seconds by stage, bytes on disk, peak of memory; forecast and real.

Both commands are the user's, in processes of their own, over a fresh workspace; what `plan` says is read from its JSON,
what the run took from its manifest, the clock, the disk, and the kernel's count of the peak. The real slice is taken
from the folder TAMIS_SHARED (by default `shared` beside the checkout) where it is at hand, else the testbed's pool.

A forecast suffers from other processes as a run does, but not at the same minutes: see the load averages (before the
plan, between the two, after the run), and which part of a core the run had.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Settings, command_alone
from tamis.store import files
from tamis.testbed import MODEL
from tamis.testbed.demo import DEFAULT_SKILL
from tamis.testbed.generate import write_testbed

_LIMITS = (600, 1_500)  # rows of the pool, in turn
_N_TOTALS = 4  # rows at the end of a round that are about the whole run
_WARM_UP = {
    "warmup.epochs": 2,
    "warmup.learning_rate": 1e-3,
    "warmup.lora_rank": 16,
    "warmup.lora_alpha": 32,
}
_QUICK = {"warmup.min_examples": 8, "warmup.batch_size": 4, "warmup.warmup_ratio": 0, "represent.dim": 64}


def run(settings: Settings) -> Report:
    """Rows for each stage of each round, and for its totals."""
    settings.scratch.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number in range(settings.rounds):
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            limit = 40 if settings.quick else _LIMITS[number % len(_LIMITS)]
            rows += _round(Path(folder), settings, number + 1, limit)
        print(json.dumps(rows[-_N_TOTALS:]), file=sys.stderr, flush=True)
    return Report(
        title="plan against the run: seconds, MB on disk, MB of memory",
        target="real / forecast: seconds of the whole 0.7 to 1.3, disk 0.95 to 1.05, memory at most 1",
        rows=rows,
    )


def _round(folder: Path, settings: Settings, number: int, limit: int) -> Iterator[dict[str, Any]]:
    given = {**_data(folder, settings), "data.limit": limit, **_WARM_UP, **(_QUICK if settings.quick else {})}
    given |= {"model.device": str(settings.device), "workspace": str(folder / "ws"), "out": str(folder / "picked")}
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    command = [sys.executable, "-m", "tamis.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    loads = [os.getloadavg()[0]]
    asked = [*command, "plan", "--json", "--progress", "plain", *words]
    asked += ["--probe-seconds", "2"] if settings.quick else []
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    plan = json.loads(done.stdout)
    loads.append(os.getloadavg()[0])
    spent = command_alone([*command, "select", "--progress", "plain", *words], environment)
    loads.append(os.getloadavg()[0])
    manifest = json.loads((folder / "picked" / "manifest.json").read_text())
    forecast = {**{stage["name"]: stage["seconds"] for stage in plan["stages"]}, "all": plan["seconds"]}
    real = {**manifest["seconds"], "all": spent.seconds}
    rows = [(f"seconds, {name}", forecast[name], took) for name, took in real.items() if forecast.get(name)]
    rows.append(("seconds of a core", plan["seconds"] * plan["core_share"], spent.cpu_seconds))
    written = sum(_bytes(folder / name) for name in ("ws", "picked"))
    rows.append(("MB on disk", plan["disk_bytes"] / 1e6, written / 1e6))
    rows.append(("MB of memory", plan["host_bytes"] / 1e6, spent.peak_mb))
    of_a_core = spent.cpu_seconds / spent.seconds
    for case, said, found in rows:
        numbers = {"forecast": said, "real": found, "real / forecast": found / said, "of a core": of_a_core}
        yield {"case": f"{number}: {case}", **numbers, "loads": loads}


def _bytes(folder: Path) -> int:
    return sum(files.size(path) for path in folder.rglob("*") if path.is_file())


def _data(folder: Path, settings: Settings) -> dict[str, Any]:
    """Pool, target and model."""
    shared = Path(os.environ.get("TAMIS_SHARED", Path(__file__).parents[2] / "shared"))
    if settings.quick or not (shared / "data" / "pool-5k.jsonl.gz").exists():
        pool, target, _ = write_testbed(folder / "data", DEFAULT_SKILL)
        return {"data.pool": str(pool), "data.target": str(target), "model.name": settings.model or str(MODEL)}
    return {
        "data.pool": str(shared / "data" / "pool-5k.jsonl.gz"),
        "data.target": str(shared / "data" / "targets" / "gsm8k" / "dev.jsonl"),
        "model.name": settings.model or str(shared / "models" / "tiny-llama"),
    }
