"""The driver of a run with Ray's workers is killed, or interrupted, again and again; then the command is let finish.

    python -m benchmarks.faults.driver_killed

Shows, for Ray on this host alone and for a cluster that lives on: no process of the run is left a few seconds later;
shards that were whole are not written again; the finished stores and picks are those of an undisturbed run.
"""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults import small_run
from benchmarks.faults.small_run import WORKERS, expected, make_data, n_pool_shards, row, same, started

PORT = 6397
# Ray's idle processes, and actors that Ray Data keeps in a cluster for all who come; they hold nothing of ours
OF_THE_CLUSTER = ("ray::IDLE", "ray::_StatsActor", "ray::_AutoscalingCoordinator", "ray::ActorLocationTracker")
WARM_UP = 0.0  # in place of a share: as soon as the first epoch is there
SECONDS = 30.0  # for Ray's processes to notice; on a busy machine they need a while


def main() -> None:
    good = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data")
        calm = expected(data, folder / "calm")
        good.append(stopped(folder / "killed", data, calm, signal.SIGKILL, (WARM_UP, 0.2, 0.5, 0.8), WORKERS))
        good.append(stopped(folder / "interrupted", data, calm, signal.SIGINT, (0.4,), WORKERS))
        with cluster() as address:
            settings = (f"engine.address={address}", *WORKERS)
            good.append(stopped(folder / "on-cluster", data, calm, signal.SIGKILL, (0.3,), settings))
    raise SystemExit(not all(good))


def stopped(
    folder: Path, data: list[str], calm: Path, by: signal.Signals, shares: tuple[float, ...], settings: tuple[str, ...]
) -> bool:
    """Stop a run by a signal when these shares of its shards are there, then let it finish; a row of the table."""
    workspace, n_shards = folder / "ws", n_pool_shards(calm / "ws")
    if WARM_UP not in shares:
        small_run.warmed_up(calm, workspace)
    others = {process.pid for process in small_run.marked()}  # a cluster that lives on
    kept: dict[str, int] = {}
    happened, good = [], True
    for share in shares:
        process = started("select", data, workspace, folder / "out", *settings)
        if share == WARM_UP:
            reached = small_run.wait_until(lambda: any(workspace.glob("checkpoints/*/epoch-1")), process)
        else:
            reached = small_run.wait_for_shards(workspace, round(share * n_shards), process)
        process.send_signal(by)
        _, stderr = process.communicate()
        code = process.returncode
        small_run.wait_until(lambda: not ours(others), seconds=SECONDS)
        left, now = ours(others), small_run.written(workspace)
        untouched = all(now.get(shard) == when for shard, when in kept.items())
        kept = now
        if by == signal.SIGINT:
            said = [line for line in stderr.splitlines() if line.startswith("tamis: ")]
            right = code == 130 and len(said) == 1 and "Traceback" not in stderr
            happened.append(f"exit code {code}: {' '.join(said)}")
        else:
            right = code == -signal.SIGKILL
        good &= reached and right and untouched and not left
        happened.append(
            ("stopped in the warm-up" if share == WARM_UP else f"at {n_pool_shards(workspace)} of {n_shards} shards")
            + (f", LEFT BEHIND: {left}" if left else "")
            + ("" if untouched else ", EARLIER SHARDS TOUCHED")
        )
        print(f"  {by.name}: {happened[-1]}; exit code {code}; unfinished: {small_run.unfinished(workspace)}")
    code, stderr = small_run.tamis("select", data, workspace, folder / "out", *settings)
    now = small_run.written(workspace)
    untouched = all(now.get(shard) == when for shard, when in kept.items())
    identical = code == 0 and same(calm, workspace, folder / "out")
    if not identical:
        print(stderr[-2000:])
    where = "a cluster that lives on" if len(settings) > 1 else "Ray on this host"
    what = {signal.SIGKILL: "driver killed", signal.SIGINT: "Ctrl-C"}[by]
    return row(
        f"{what}, {where}",
        "; ".join(happened) + f"; no process left after at most {SECONDS:.0f} s" * good,
        f"{'identical' if identical else 'NOT identical'}; whole shards {'kept' if untouched else 'WRITTEN AGAIN'}",
        good and identical and untouched,
    )


def ours(others: set[int]) -> list[str]:
    """Processes of a run that is over, other than those of a cluster that it only used."""
    running = [process.name() for process in small_run.marked() if process.pid not in others]
    return [name for name in running if not (others and name.startswith(OF_THE_CLUSTER))]


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of two CPUs that was there before the run, as `ray start` makes it."""
    words = [sys.executable, "-m", "ray.scripts.scripts"]
    start = ["start", "--head", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false"]
    done = subprocess.run([*words, *start], capture_output=True, text=True, env=small_run.environment(), check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    try:
        yield f"127.0.0.1:{PORT}"
    finally:
        small_run.end_all()


if __name__ == "__main__":
    main()
