"""What the fault scripts share: a small LESS run on the embedded model and pool, and file systems of their own."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tamis.testbed import MODEL, write_testbed

STAGES = ("warmup", "represent", "score", "select")
WORKERS = ("engine.workers=2",)  # of Ray, on this host
SETTINGS = (
    *("--limit", "120", "--budget", "10", "--progress", "plain", "--device", "cpu"),
    *("warmup.min_examples=40", "warmup.epochs=2", "warmup.learning_rate=3e-3", "warmup.batch_size=16"),
    *("warmup.lora_rank=8", "warmup.lora_alpha=16", "represent.dim=4096", "represent.shard_rows=16"),
)
_MARK = "TAMIS_FAULTS"  # in the environment of all that a script starts, however far down


def make_data(folder: Path) -> list[str]:
    """Write pool and target below this folder; the arguments that name them and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    pool, target, _ = write_testbed(folder, "capitals")
    return ["--pool", str(pool), "--target", str(target), "--model", str(MODEL)]


def started(
    command: str,
    data: list[str],
    workspace: Path,
    out: Path,
    *settings: str,
    within: tuple[str, ...] = (),
    group: int | None = None,
) -> subprocess.Popen[str]:
    """A command under way, perhaps by another (`within`) or as a group of users; stderr is kept for the end."""
    where = ["--workspace", str(workspace), "--out", str(out)]
    words = [*within, sys.executable, "-m", "tamis.cli", command, *data, *SETTINGS, *where, *settings]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(), group=group
    )


def tamis(command: str, data: list[str], workspace: Path, out: Path, *settings: str) -> tuple[int, str]:
    """Run one command to its end: exit code and stderr."""
    process = started(command, data, workspace, out, *settings)
    _, stderr = process.communicate()
    return process.returncode, stderr


def environment() -> dict[str, str]:
    """Of all that a script starts: one thread, a mark by which `left_behind` knows it, Ray's token of its own."""
    mark = os.environ.setdefault(_MARK, uuid.uuid4().hex)
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": mark, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **ray}


def expected(data: list[str], folder: Path) -> Path:
    """This folder with the workspace `ws` and the selection `out` of an undisturbed run of this process alone."""
    code, stderr = tamis("select", data, folder / "ws", folder / "out")
    if code:
        raise SystemExit(stderr)
    return folder


@contextmanager
def prepared() -> Iterator[tuple[Path, list[str], Path]]:
    """A folder that is gone afterwards, the arguments of a run in it, and the folder of an undisturbed one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data")
        yield folder, data, expected(data, folder / "calm")


def warmed_up(calm: Path, workspace: Path) -> Path:
    """A new workspace that has the checkpoints of the undisturbed run, so that faults fall into what comes after."""
    shutil.copytree(calm / "ws" / "checkpoints", workspace / "checkpoints")
    return workspace


# ---- what is there -------------------------------------------------------------------------------------------------


def stores(workspace: Path) -> dict[str, bytes]:
    """The bytes of every finished file of features and similarities, by its path in the workspace."""
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for part in ("features", "similarity")
        for path in sorted((workspace / part).rglob("[!.]*"))
        if path.is_file() and path.suffix not in (".lock", ".damaged")
    }


def written(workspace: Path) -> dict[str, int]:
    """When each shard was written."""
    return {str(path.relative_to(workspace)): path.stat().st_mtime_ns for path in workspace.rglob("*.safetensors")}


def n_pool_shards(workspace: Path) -> int:
    """Shards of features, those of the target's few rows left out."""
    of_stores = [len(list(folder.glob("[!.]*.safetensors"))) for folder in (workspace / "features").glob("*")]
    return sum(n for n in of_stores if n > 1)


def same(calm: Path, workspace: Path, out: Path) -> bool:
    """Whether a run has the stores and the picks of the undisturbed one, byte for byte."""
    picks = (out / "selected.jsonl") if out.is_dir() else None
    return (
        picks is not None
        and stores(workspace) == stores(calm / "ws")
        and picks.read_bytes() == (calm / "out" / "selected.jsonl").read_bytes()
    )


def outcome(code: int, stderr: str) -> tuple[bool, str]:
    """Whether a run that cannot succeed stopped with one sentence, and the sentence."""
    own = [line for line in stderr.splitlines() if line.startswith("tamis: ")]
    return code == 2 and len(own) == 1 and "Traceback" not in stderr, own[-1] if own else stderr[-2000:]


def unfinished(folder: Path) -> list[str]:
    """Temporary files and folders that a run left, other than the trainer's own."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if re.search(r"\.(tmp|old)$", path.name)]


def row(fault: str, happened: str, result: str, good: bool) -> bool:
    """Print a row of the fault table, which `python -m benchmarks.faults` collects; gives `good` back."""
    cells = [" ".join(cell.split()).replace("|", "\\|") for cell in (fault, happened, result)]
    cells = [re.sub(rf"{tempfile.gettempdir()}/tmp\w+/", "", cell) for cell in cells]
    cells = [re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24}\b", r"\1…", cell) for cell in cells]
    print(f"| {' | '.join(cells)} | {'yes' if good else '**no**'} |", flush=True)
    return good


# ---- time and processes --------------------------------------------------------------------------------------------


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> bool:
    """Wait for something; false where it did not come in time, or the process ended before."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            return there()
        time.sleep(0.02)
    return True


def wait_for_shards(workspace: Path, n_shards: int, process: subprocess.Popen[str]) -> bool:
    """Wait until so many shards of the pool are written; false where the process ended before."""
    return wait_until(lambda: n_pool_shards(workspace) >= n_shards, process)


def left_behind(seconds: float = 0) -> list[str]:
    """Names of processes, below any that this script started, that still run after so many seconds."""
    wait_until(lambda: not marked(), seconds=seconds)
    return sorted(process.name() for process in marked() if process.is_running())


def end_all() -> None:
    """Kill all that this script started, and what those start meanwhile. `ray stop` would end others' clusters too."""
    for _ in range(20):
        for process in (found := marked()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not found:
            return
        time.sleep(0.2)


def marked() -> list[psutil.Process]:
    """Processes that this script started, or those did."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.pid != os.getpid() and process.environ().get(_MARK) == os.environ.get(_MARK, "")
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


# ---- file systems --------------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A tmpfs of this size; ends the script where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"this script needs to mount a tmpfs, which is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Change a mounted tmpfs: `size=…k`, `ro`, `rw`."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def used_kib(folder: Path) -> int:
    """What the files of a file system take."""
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize // 1024
