"""The engine whose workers are the actors of a Ray cluster.

Ray Data moves tickets (the numbers of tasks) through a pool of actors, each of which holds a worker: it makes the pool
grow and shrink, gives a lost actor's ticket to another, and starts that actor anew. What a task is made of never waits
in the cluster: a worker asks for it when it begins, through an actor beside the driver (the desk), by which it also
tells what it does. So at most one task a worker is in memory, however many there are.
"""

import logging
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.engine import Result, Task, use_threads
from tamis.engine.desk import TRIES, Clerk, Desk, Telling
from tamis.engine.farewell import leave_last_words
from tamis.errors import EngineError, InputError, TamisError
from tamis.progress import Told


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Workers on a Ray cluster: the one at `address` or in RAY_ADDRESS, or one of this host alone that ends with it.

    workers    fewest and most; None: as many as the cluster has GPUs, or CPUs for
    threads    of each worker, and the CPUs it takes; None: 1
    gpus       of each worker, its own; None: 1, but none where the cluster has none or device is cpu
    device     of the model
    """

    address: str | None = None
    workers: tuple[int, int] | None = None
    threads: int | None = None
    gpus: int | None = None
    device: str = "auto"

    def run(
        self, make_worker: Callable[[], Callable[[Task, Told], Result]], tasks: Sequence[Task], told: Told
    ) -> Iterator[Result]:
        """See `Engine.run`. The pool is never larger than the number of tasks.

        What a worker raises is raised here: an error of tamis at once, any other after three tries. EngineError where
        a task costs three workers their lives.
        """
        if not tasks:
            return
        ray = _started(self)
        n_threads = self.threads or 1
        n_gpus = self._gpus(ray)
        few, many = self.workers or (1, self._room(ray, n_threads, n_gpus))
        few, many = min(few, len(tasks)), min(many, len(tasks))
        asked = {"CPU": n_threads, "GPU": n_gpus}
        if not any(_fits(asked, node["Resources"]) for node in ray.nodes() if node["Alive"]):
            told.note(f"no host of the cluster has {n_threads} CPUs and {n_gpus} GPUs for a worker: waiting for one")
        with Desk.opened(ray, tasks, told) as (desk, clerk), _quiet(ray):
            tickets = ray.data.from_items(list(range(len(tasks))), override_num_blocks=len(tasks))
            outcomes = tickets.map_batches(
                _Worker,
                fn_constructor_args=(Path.cwd(), n_threads, make_worker, desk),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    min_size=few, max_size=many, max_tasks_in_flight_per_actor=1 if few == many else 2
                ),
                num_cpus=n_threads,
                num_gpus=n_gpus,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(n_threads)}},
            )
            yield from _in_order(_outcomes(ray, outcomes, clerk))

    def _gpus(self, ray: Any) -> int:
        """GPUs of each worker."""
        if self.device not in ("auto", "cuda", "cpu"):
            raise InputError(
                f"engine.kind=ray gives each worker a device of its own: leave out model.device={self.device}"
            )
        if self.gpus is not None or self.device == "cpu":
            return self.gpus or 0
        return int(self.device == "cuda" or ray.cluster_resources().get("GPU", 0) >= 1)

    def _room(self, ray: Any, n_threads: int, n_gpus: int) -> int:
        """How many workers the cluster has room for."""
        there = ray.cluster_resources()
        by_cpu = int(there.get("CPU", 0)) // n_threads
        return max(1, min(by_cpu, int(there.get("GPU", 0)) // n_gpus) if n_gpus else by_cpu)


def _fits(asked: dict[str, int], there: dict[str, float]) -> bool:
    return all(there.get(name, 0) >= n for name, n in asked.items())


def _started(engine: RayEngine) -> Any:
    """The ray module, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless asked for
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is told by exceptions
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("engine.kind=ray needs Ray: pip install 'tamis[ray]'") from error
    if not ray.is_initialized():
        address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
        here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 1 << 30}
        n_cpus = (engine.workers or (1, 1))[0] * (engine.threads or 1)
        if address == "local" and n_cpus > (os.cpu_count() or 1):
            raise InputError(
                f"engine.workers and engine.threads_per_worker need {n_cpus} CPUs, this host has {os.cpu_count()}: "
                "lower them, or say engine.address"
            )
        where = "its cluster" if address == "local" else f"its cluster at {address}"
        leave_last_words(
            f"tamis: ended from outside: by Ray if {where} is gone, or for want of memory; "
            "the same command goes on from what is finished"
        )
        # What a cluster says of a lost node goes to stdout, whatever log_to_driver says
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        try:
            with _without_stderr():  # which Ray tells that it was told to be quiet
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(here if address == "local" else {}),
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            token = "; one that asks for a token needs RAY_AUTH_MODE=token here and its head's ~/.ray/auth_token"
            raise EngineError(
                f"engine.address: expected a Ray cluster at {address}, got no answer ({said}){token * (':' in address)}"
            ) from error
    return ray


@contextmanager
def _without_stderr() -> Iterator[None]:
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Without Ray Data's own bars and sentences: tamis shows its own."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start")
    before, level = {name: getattr(context, name) for name in names}, logger.level
    for name in names:
        setattr(context, name, False)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


# ---- in the driver -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a task ended, and what was not yet told of it."""

    number: int
    result: Any
    error: Exception | None
    done: int
    notes: list[str]


def _outcomes(ray: Any, data: Any, clerk: "Clerk") -> Iterator[tuple[int, Any]]:
    """(number, result) as tasks end, each once."""
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for packed in batch["outcome"]:
                outcome: _Outcome = pickle.loads(packed)  # noqa: S301  # of a worker of this run
                clerk.tell(outcome.number, outcome.done, outcome.notes)
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.number, outcome.result
    except ray.exceptions.RayError as error:
        clerk.check()
        said = " ".join(str(error.__cause__ or error).split())[:400]
        raise EngineError(
            f"the workers cannot go on ({said}); once the cluster can be reached, the same command goes on from what "
            "is finished"
        ) from error


def _in_order(found: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    """The results 0, 1, 2, … of those that come in any order."""
    early: dict[int, Result] = {}
    due = 0
    for number, result in found:
        early[number] = result
        while due in early:
            yield early.pop(due)
            due += 1


# ---- in a worker's process -----------------------------------------------------------------------------------------


class _Worker:
    """An actor: makes the worker when the first ticket comes, and tries each task up to three times."""

    def __init__(self, folder: Path, n_threads: int, make: Callable[[], Callable[..., Any]], desk: Any) -> None:
        self._folder, self._make, self._desk = folder, make, desk
        self._worker: Callable[..., Any] | None = None
        use_threads(n_threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        number = int(batch["item"][0])
        telling = Telling(self._desk, number)
        result: Any = None
        error: Exception | None = None
        task: list[Any] = []
        for attempt in range(TRIES):
            try:
                task = task or [self._asked(number)]
                self._worker = self._worker or self._make()
                result, error = self._worker(task[0], Told(telling.advance, telling.note)), None
                break
            except TamisError as found:
                error = type(found)(f"{found} (on host {socket.gethostname()})")
                break
            except Exception as found:  # noqa: BLE001
                error, self._worker = _portable(found), None
                if attempt + 1 < TRIES:
                    telling.note(f"on host {socket.gethostname()}: {type(found).__name__}: {found}; tried again")
                    telling.done = 0
                    time.sleep(2**attempt)
        outcome = _Outcome(number, result, error, telling.done, telling.notes)
        return {"outcome": np.array([pickle.dumps(outcome)], object)}

    def _asked(self, number: int) -> Any:
        """The task of a ticket."""
        import ray

        if not self._folder.is_dir():
            raise InputError(
                f"the folder {self._folder}, in which the run was started, is not there: start it from a folder that "
                "all hosts share"
            )
        os.chdir(self._folder)  # relative paths mean the same as in the driver
        (answer,) = ray.get(self._desk.ask.remote(number))
        if isinstance(answer, Exception):
            raise answer
        return ray.get(answer)


def _portable(error: Exception) -> Exception:
    """An error that can be sent, with the place where it was raised."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error = error.with_traceback(None)
    error.add_note(f"in a worker on host {socket.gethostname()}:\n{where}")
    return error
