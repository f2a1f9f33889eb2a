"""Workers of Ray killed by SIGKILL in the middle of a run, as the kernel does when memory runs out.

    python -m benchmarks.faults.worker_killed

Shows that the run finishes with the stores and picks of an undisturbed one, and says nothing of Ray's own.
"""

import subprocess

import psutil

from benchmarks.faults import small_run
from benchmarks.faults.small_run import WORKERS, row


def main() -> None:
    with small_run.prepared() as (folder, data, calm):
        workspace, n_shards = small_run.warmed_up(calm, folder / "ws"), small_run.n_pool_shards(calm / "ws")
        process = small_run.started("select", data, workspace, folder / "out", *WORKERS)
        killed = []
        for share in (0.2, 0.6):
            small_run.wait_for_shards(workspace, round(share * n_shards), process)
            small_run.wait_until(lambda: bool(at_work(process)), process)
            worker = at_work(process)[0]
            worker.kill()
            killed.append(f"one killed at {small_run.n_pool_shards(workspace)} of {n_shards} shards")
        _, stderr = process.communicate()
        foreign = [line for line in stderr.splitlines() if "raylet" in line or "MapWorker" in line]
        identical = process.returncode == 0 and small_run.same(calm, workspace, folder / "out")
        if not identical or foreign:
            print(stderr[-3000:])
        good = row(
            "worker killed (SIGKILL)",
            f"{'; '.join(killed)}; exit code {process.returncode}",
            "identical" if identical else "NOT identical",
            identical and not foreign and small_run.left_behind(30) == [],
        )
    raise SystemExit(not good)


def at_work(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Workers of a run that compute."""
    below = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
    return [process for process in below if _name(process).startswith("ray::MapWorker")]


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    main()
