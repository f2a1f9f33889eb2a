"""Hosts whose clocks are hours apart, on one workspace: writers, readers, and one who tidies up.

    python -m benchmarks.faults.clock_skew       (needs faketime: apt install faketime)

Two runs share an empty workspace, one five hours ahead and one five hours behind the clock that gives files their
times, while `tamis store gc --yes` runs again and again by either clock. Shows that nothing alive is removed, what is
dead is, and stores and picks are those of an undisturbed run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults import small_run
from benchmarks.faults.small_run import row

AHEAD, BEHIND = ("faketime", "-f", "+5h"), ("faketime", "-f", "-5h")  # what a process believes; files are not told


def main() -> None:
    if shutil.which("faketime") is None:
        raise SystemExit("this script needs faketime: apt install faketime")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = small_run.make_data(folder / "data")
        calm = small_run.expected(data, folder / "calm")
        workspace, outs = folder / "ws", (folder / "ahead", folder / "behind")
        dead, alive = (workspace / "features" / f".{what}.0.tmp" for what in ("dead", "alive"))
        dead.parent.mkdir(parents=True)
        for path in (dead, alive):
            path.write_bytes(b"half a shard")
        two_hours_ago = time.time() - 7200
        os.utime(dead, (two_hours_ago, two_hours_ago))
        runs = [
            small_run.started("select", data, workspace, out, within=clock)
            for out, clock in zip(outs, (AHEAD, BEHIND), strict=True)
        ]
        n_tidied, alive_there, said = 0, True, ""
        while n_tidied < 2 or any(run.poll() is None for run in runs):
            os.utime(alive)  # its writer is at work
            done = tidied(workspace, (AHEAD, BEHIND)[n_tidied % 2])
            n_tidied += 1
            alive_there &= alive.exists()
            said += done.stdout + done.stderr * (done.returncode != 0)
        ends = [(run.communicate()[1], run.returncode) for run in runs]
        alive.unlink(missing_ok=True)
        identical = all(small_run.same(calm, workspace, out) for out in outs)
        for stderr, code in ends:
            if code:
                print(stderr[-2000:])
        if said.count("deleted") > 1 or "Traceback" in said:
            print(said[-2000:])
        good = row(
            "clocks five hours ahead and behind",
            f"two runs at once, gc {n_tidied} times by either clock; exit codes "
            f"{', '.join(str(code) for _, code in ends)}; a dead temporary file removed: {not dead.exists()}, one that "
            f"is written to: {not alive_there}; left over: {len(small_run.unfinished(workspace))}",
            "identical" if identical else "NOT identical",
            identical and alive_there and not dead.exists() and not any(code for _, code in ends),
        )
    raise SystemExit(not good)


def tidied(workspace: Path, clock: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """`tamis store gc --yes` by this clock."""
    words = [*clock, sys.executable, "-m", "tamis.cli", "store", "gc", str(workspace), "--yes"]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=small_run.environment())


if __name__ == "__main__":
    main()
