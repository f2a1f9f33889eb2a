"""The head of a Ray cluster dies under a run: all that belongs to the cluster, but not the driver.

    python -m benchmarks.faults.head_lost

Shows what the driver says, and that on a new cluster the same command finishes with the stores and picks of an
undisturbed run.
"""

import psutil

from benchmarks.faults import small_run
from benchmarks.faults.driver_killed import cluster
from benchmarks.faults.small_run import WORKERS, row


def main() -> None:
    with small_run.prepared() as (folder, data, calm):
        workspace, n_shards = small_run.warmed_up(calm, folder / "ws"), small_run.n_pool_shards(calm / "ws")
        with cluster() as address:
            settings = (f"engine.address={address}", *WORKERS)
            process = small_run.started("select", data, workspace, folder / "out", *settings)
            reached = small_run.wait_for_shards(workspace, n_shards // 3, process)
            there = small_run.n_pool_shards(workspace)
            spared = {process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))}
            for other in small_run.marked():
                if other.pid not in spared:
                    other.kill()
            _, stderr = process.communicate()
        _, sentence = small_run.outcome(process.returncode, stderr)
        stopped = process.returncode == 1 and sentence.startswith("tamis: ") and "Traceback" not in stderr
        if not stopped:
            print(stderr[-3000:])
        with cluster() as address:
            settings = (f"engine.address={address}", *WORKERS)
            code, stderr = small_run.tamis("select", data, workspace, folder / "out", *settings)
        identical = code == 0 and small_run.same(calm, workspace, folder / "out")
        if not identical:
            print(stderr[-2000:])
        good = row(
            "head of the cluster lost",
            f"at {there} of {n_shards} shards; exit code {process.returncode}: {sentence}",
            "identical" if identical else "NOT identical",
            reached and stopped and identical,
        )
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
