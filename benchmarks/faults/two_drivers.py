"""Two processes with the same command on one empty workspace at the same time, warm-up included.

    python -m benchmarks.faults.two_drivers      (who wrote what is shown where it runs as root, on Linux)

Shows, with either engine: both end well, stores and picks are those of a single run, how the shards were divided, and
how many were written by both.
"""

import os
import threading
from collections import defaultdict
from pathlib import Path

from benchmarks.faults import small_run
from benchmarks.faults.small_run import WORKERS, row

GROUP = 54321  # of the second driver's files, by which they are told apart


def main() -> None:
    good = []
    with small_run.prepared() as (folder, data, calm):
        for engine, settings in (("local", ()), ("Ray, engine.workers=2 each", WORKERS)):
            here = folder / engine.partition(",")[0]
            workspace, outs = here / "ws", (here / "first", here / "second")
            workspace.mkdir(parents=True)
            writers = Writers(workspace)
            drivers = [small_run.started("select", data, workspace, out, *settings) for out in outs[:1]]
            group = GROUP if os.geteuid() == 0 else None
            drivers.append(small_run.started("select", data, workspace, outs[1], *settings, group=group))
            ends = [(driver.communicate()[1], driver.returncode) for driver in drivers]
            divided, twice = writers.end()
            identical = all(small_run.same(calm, workspace, out) for out in outs)
            left = small_run.left_behind(60)
            for stderr, code in ends:
                if code:
                    print(stderr[-2000:])
            good.append(
                row(
                    f"two drivers on one workspace, {engine}",
                    f"exit codes {', '.join(str(code) for _, code in ends)}; shards by driver: {divided}; "
                    f"written by both: {twice}" + f"; LEFT BEHIND: {left}" * bool(left),
                    "identical" if identical else "NOT identical",
                    identical and not any(code for _, code in ends) and not left,
                )
            )
    raise SystemExit(not all(good))


class Writers:
    """Who wrote the shards of a workspace, looked at every few milliseconds."""

    def __init__(self, workspace: Path) -> None:
        self._workspace, self._over = workspace, threading.Event()
        self._seen: dict[str, dict[int, int]] = defaultdict(dict)  # shard → time of writing → group
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for path in self._workspace.glob("features/*/[!.]*.safetensors"):
                facts = path.stat()
                self._seen[f"{path.parent.name}/{path.name}"][facts.st_mtime_ns] = facts.st_gid

    def end(self) -> tuple[str, int]:
        """Shards of the first and second driver, as "7 and 11"; how many were written more than once."""
        self._over.set()
        self._thread.join()
        last = [by_time[max(by_time)] for by_time in self._seen.values()]
        n_second = sum(group == GROUP for group in last)
        return f"{len(last) - n_second} and {n_second}", sum(len(by_time) > 1 for by_time in self._seen.values())


if __name__ == "__main__":
    main()
