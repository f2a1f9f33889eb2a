"""A node of a Ray cluster that is removed without warning in the middle of a run, and one that comes in another.

    python -m benchmarks.faults.node_removed

Shows, with simulated nodes (ray.cluster_utils: raylets of their own on this host): the run finishes, stores and picks
are those of an undisturbed run of this process alone, and only the shards in flight are begun twice.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import small_run
from benchmarks.faults.small_run import row
from tamis.config import Config, load_config
from tamis.data.selection import Selection
from tamis.engine.ray import RayEngine
from tamis.pipeline import Pipeline
from tamis.progress import Told

STORE_BYTES = 1 << 27  # of each node, in shared memory


@dataclass(frozen=True)
class Noted:
    """An engine of whose tasks each beginning is noted in a folder: by which node, and of which task."""

    engine: RayEngine
    folder: Path
    seconds: float = 0.0  # that each task takes longer
    waits_from: int | None = None  # tasks from this one on wait, a minute at most, until a second node has begun one

    def run(
        self, make_worker: Callable[[], Callable[[Any, Told], Any]], tasks: Sequence[Any], told: Told
    ) -> Iterator[Any]:
        """See `tamis.engine.Engine`."""
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        seconds, waits_from = self.seconds, len(tasks) if self.waits_from is None else self.waits_from

        def make() -> Callable[[Any, Told], Any]:
            import uuid

            import ray

            worker, node = make_worker(), ray.get_runtime_context().get_node_id()

            def work(task: Any, told: Told) -> Any:
                number, task = task
                (folder / f"{number} {node} {uuid.uuid4().hex}").touch()
                time.sleep(seconds)
                end = time.monotonic() + 60
                while number >= waits_from and time.monotonic() < end:
                    if len({path.name.split(" ")[1] for path in folder.iterdir()}) > 1:
                        break
                    time.sleep(0.1)
                return worker(task, told)

            return work

        return self.engine.run(make, Numbered(tasks), told)

    def begun(self) -> tuple[Counter[tuple[str, int]], Counter[str]]:
        """How often each task (of a run of the engine) was begun; how many each node began."""
        names = [(path.parent.name, *path.name.split(" ")) for path in self.folder.glob("*/*")]
        return Counter((run, int(number)) for run, number, _, _ in names), Counter(node for _, _, node, _ in names)


@dataclass(frozen=True)
class Numbered(Sequence[Any]):
    """Tasks, each with its number."""

    tasks: Sequence[Any]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: Any) -> Any:
        return number, self.tasks[number]


@dataclass(frozen=True)
class Run:
    """What came of a run on a cluster that changed: tasks begun, those begun twice, those of each node, the picks."""

    n_begun: int
    n_twice: int
    by_node: dict[str, int]
    selection: Selection


def changed_mid_run(
    config: Config, folder: Path, n_shards: int, workers: tuple[int, int], *, comes: bool = False, seconds: float = 0.0
) -> Run:
    """Run on a head node without CPUs and two nodes of one CPU each, one of which goes (or comes) when so many shards
    of features are written. `folder` is for notes.
    """
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update({"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(1 if comes else 2)]
    folder.mkdir(parents=True)
    ray_engine = RayEngine(cluster.address, workers, threads=1, device="cpu")
    engine = Noted(ray_engine, folder, seconds, n_shards + 2 if comes else None)
    with ThreadPoolExecutor(1) as thread:  # nodes are started in the main thread alone: they handle signals
        try:
            running = thread.submit(_select, config, engine)
            while small_run.n_pool_shards(Path(config.workspace)) < n_shards:
                if running.done():
                    raise running.exception() or RuntimeError("the run was over before the cluster changed")
                time.sleep(0.02)
            if comes:
                cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
            else:
                cluster.remove_node(nodes[1], allow_graceful=False)
            selection = running.result()
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]
    tasks, by_node = engine.begun()
    return Run(tasks.total(), tasks.total() - len(tasks), dict(by_node), selection)


def _select(config: Config, engine: Noted) -> Selection:
    run = Pipeline(config, None, engine)
    selection = run.pick()
    if config.out is not None:
        run.write(selection)
    return selection


def main() -> None:
    good = []
    with small_run.prepared() as (folder, _, calm):
        n_shards = small_run.n_pool_shards(calm / "ws")
        for comes in (False, True):
            here = folder / ("comes" if comes else "goes")
            workspace = small_run.warmed_up(calm, here / "ws")
            asked = {"workspace": str(workspace), "out": str(here / "out")}
            config = load_config(calm / "out" / "config.yaml", asked)
            workers = (1, 2) if comes else (2, 2)
            run = changed_mid_run(config, here / "begun", n_shards // 3, workers, comes=comes, seconds=0.3)
            identical = small_run.same(calm, workspace, here / "out")
            few = run.n_twice <= 2
            good.append(
                row(
                    "a node comes, engine.workers=1-2" if comes else "a node removed without warning",
                    f"{'added' if comes else 'removed'} at {n_shards // 3} of {n_shards} shards; tasks by node: "
                    f"{', '.join(map(str, sorted(run.by_node.values())))}; begun twice: {run.n_twice}",
                    "identical" if identical else "NOT identical",
                    identical and few and len(run.by_node) == 2,
                )
            )
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
