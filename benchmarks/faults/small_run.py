"""What the fault scripts share: a small LESS run on the embedded model and pool, and file systems of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.testbed import MODEL, write_testbed

STAGES = ("warmup", "represent", "score", "select")
SETTINGS = (
    *("--limit", "120", "--budget", "10", "--progress", "plain", "--device", "cpu"),
    *("warmup.min_examples=40", "warmup.epochs=2", "warmup.learning_rate=3e-3", "warmup.batch_size=16"),
    *("warmup.lora_rank=8", "warmup.lora_alpha=16", "represent.dim=4096", "represent.shard_rows=16"),
)


def make_data(folder: Path) -> list[str]:
    """Write pool and target below this folder; the arguments that name them and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    pool, target, _ = write_testbed(folder, "capitals")
    return ["--pool", str(pool), "--target", str(target), "--model", str(MODEL)]


def tamis(command: str, data: list[str], workspace: Path, out: Path) -> tuple[int, str]:
    """Run one command to its end: exit code and stderr."""
    where = ["--workspace", str(workspace), "--out", str(out)]
    words = [sys.executable, "-m", "tamis.cli", command, *data, *SETTINGS, *where]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr


def outcome(code: int, stderr: str) -> tuple[bool, str]:
    """Whether a run that cannot succeed stopped with one sentence, and the sentence."""
    own = [line for line in stderr.splitlines() if line.startswith("tamis: ")]
    return code == 2 and len(own) == 1 and "Traceback" not in stderr, own[-1] if own else stderr[-2000:]


def unfinished(folder: Path) -> list[str]:
    """Temporary files and folders that a run left, other than the trainer's own."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if re.search(r"\.(tmp|old)$", path.name)]


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
