"""A disk that is full in the middle of each stage, for real: on a tmpfs that is as large as half of the stage needs.

    python -m benchmarks.faults.disk_full        (as root, on Linux)

Shows, for each stage, and for features that Ray's workers write: the sentence it stops with, that no half-written
output folder is left, and that after some room is made the same command finishes with the selection of an undisturbed
run, over a workspace that is whole.
"""

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.faults.small_run import (
    STAGES,
    WORKERS,
    make_data,
    mounted,
    outcome,
    remount,
    row,
    tamis,
    unfinished,
    used_kib,
)
from tamis.verify import verify_folder

LARGE_MIB = 256


def main() -> None:
    failures = 0
    with tempfile.TemporaryDirectory() as name, mounted(Path(name) / "disk", LARGE_MIB) as disk:
        data = make_data(Path(name) / "data")
        used = [used_kib(disk)]
        for stage in STAGES:  # undisturbed; a copy of the disk before each stage
            shutil.copytree(disk, Path(name) / f"before-{stage}")
            code, stderr = tamis(stage, data, disk / "ws", disk / "out")
            if code:
                raise SystemExit(stderr)
            used.append(used_kib(disk))
        expected = (disk / "out" / "selected.jsonl").read_bytes()

        sizes = dict(zip(STAGES, pairwise(used), strict=True))
        for stage, settings in (*((stage, ()) for stage in STAGES), ("represent", WORKERS)):
            before, after = sizes[stage]
            for path in disk.iterdir():
                shutil.rmtree(path)
            shutil.copytree(Path(name) / f"before-{stage}", disk, dirs_exist_ok=True)
            remount(disk, f"size={max(before + (after - before) // 2, 4)}k")
            stopped, sentence = outcome(*tamis("select", data, disk / "ws", disk / "out", *settings))
            left = unfinished(disk)
            nothing_written = not (disk / "out").exists()
            remount(disk, f"size={LARGE_MIB}m")
            code, stderr = tamis("select", data, disk / "ws", disk / "out", *settings)
            n_whole, damaged = verify_folder(disk / "ws")
            same = code == 0 and (disk / "out" / "selected.jsonl").read_bytes() == expected
            good = stopped and nothing_written and same and not damaged
            failures += not good
            row(
                f"disk full during {stage}" + ", Ray" * bool(settings),
                f"{sentence.replace(str(disk), 'DISK')}; no output folder: {nothing_written}; left over: {len(left)}",
                f"with room again {'identical' if same else 'NOT identical'}; {n_whole} files whole, "
                f"{len(damaged)} damaged",
                good,
            )
            if code:
                print(stderr[-1500:])
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
