"""Where work is done: in this process (`local`), or by the workers of a Ray cluster (`ray`), perhaps of this host."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from tamis.progress import Told
from tamis.settings import EngineConfig

Task = TypeVar("Task")
Result = TypeVar("Result")


@runtime_checkable
class Engine(Protocol):
    """Runs one worker function over many tasks."""

    def run(
        self, make_worker: Callable[[], Callable[[Task, Told], Result]], tasks: Sequence[Task], told: Told
    ) -> Iterator[Result]:
        """Results of worker(task, told), in the order of tasks.

        make_worker holds what is dear to make, such as a loaded model: it is called once per process, and not at all
        where there are no tasks. A task is asked for (`tasks[i]`) when a worker is free for it, and again where that
        worker is lost, so `tasks` may make each anew. Workers, tasks and results can be pickled.
        """
        ...


def engine_of(config: EngineConfig, device: str) -> Engine:
    """The engine that the settings ask for; `device` is that of the model.

    InputError where they contradict each other, or the package is not installed.
    """
    if config.is_ray:
        from tamis.engine.ray import RayEngine

        return RayEngine(config.address, config.pool_size, config.threads_per_worker, config.gpus_per_worker, device)
    from tamis.engine.local import LocalEngine

    return LocalEngine(config.threads_per_worker)


def use_threads(n_threads: int | None) -> None:
    """Let this process compute with so many threads, if any number is given: results depend on it in the last bit."""
    if n_threads is None:
        return
    import threadpoolctl

    os.environ["OMP_NUM_THREADS"] = str(n_threads)  # of libraries that are loaded later, as PyTorch where it is needed
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n_threads)
    threadpoolctl.threadpool_limits(n_threads)
