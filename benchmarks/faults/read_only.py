"""A workspace that cannot be written to, for real: a tmpfs that is mounted read-only after each stage.

    python -m benchmarks.faults.read_only        (as root, on Linux)

Shows, for each stage, the sentence it stops with; that nothing is written; that a finished workspace serves read-only;
and that, writable again, the same command finishes with the selection of an undisturbed run.
"""

import shutil
import tempfile
from pathlib import Path

from benchmarks.faults.small_run import STAGES, make_data, mounted, outcome, remount, row, tamis


def main() -> None:
    failures = 0
    with tempfile.TemporaryDirectory() as name, mounted(Path(name) / "disk", 256) as disk:
        data, out = make_data(Path(name) / "data"), Path(name) / "out"
        for stage in STAGES:
            before = sorted(disk.rglob("*"))
            remount(disk, "ro")
            code, stderr = tamis("select", data, disk / "ws", out)
            untouched = sorted(disk.rglob("*")) == before
            if stage == "select":  # all is there: only the output folder, elsewhere, is written
                good = code == 0 and untouched
                expected = (out / "selected.jsonl").read_bytes() if code == 0 else b""
                if code:
                    print(stderr[-1500:])
            else:
                stopped, sentence = outcome(code, stderr)
                good = stopped and untouched and not out.exists()
                row(f"workspace read-only before {stage}", sentence, "writable again: goes on", good)
            failures += not good
            remount(disk, "rw")
            code, stderr = tamis(stage, data, disk / "ws", disk / "out")
            if code:
                raise SystemExit(stderr)
        same = (disk / "out" / "selected.jsonl").read_bytes() == expected
        row(
            "workspace read-only, all stages finished",
            "picks are served",
            "identical" if same else "NOT identical",
            same,
        )
        remount(disk, "ro")
        stopped, sentence = outcome(*tamis("select", data, Path(name) / "elsewhere", disk / "picked"))
        no_work = not (Path(name) / "elsewhere").exists()
        row("output folder read-only", sentence, "before any work" if no_work else "AFTER WORK", stopped and no_work)
        shutil.rmtree(out, ignore_errors=True)
        remount(disk, "rw")
    raise SystemExit(1 if failures or not (same and stopped and no_work) else 0)


if __name__ == "__main__":
    main()
