"""What every benchmark shares: settings, interleaved timing, the facts of the machine, the report."""

import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

import torch

GIB = 2**30
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """quick: tiny sizes, to see that everything runs. model: a folder, where the random model is not wanted."""

    device: torch.device
    rounds: int
    batch_tokens: int
    quick: bool
    model: str | None
    scratch: Path  # on the disk that the store benchmark is to measure
    workspace: Path | None = None  # where made-up rows are not wanted


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of one shape; the table shows their case and numbers, the JSON file their lists too."""

    title: str
    target: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared; `within` is entered before each run, outside the timing."""

    run: Callable[[], object]
    within: AbstractContextManager[object] = field(default_factory=nullcontext)


@dataclass(slots=True)
class Measured:
    """Seconds of each round, and on a GPU the most memory that a run took beyond what was held before it."""

    seconds: list[float] = field(default_factory=list)
    extra_gib: float | None = None


def measure(sides: Mapping[str, Side], settings: Settings, *, warm_up: bool = True) -> dict[str, Measured]:
    """Run the sides in turn, forwards and backwards, so that neither drift nor order favours one; round 0 warms up."""
    measured = {name: Measured() for name in sides}
    for turn in range(0 if warm_up else 1, settings.rounds + 1):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            with sides[name].within:
                seconds, extra_gib = _once(sides[name].run, settings.device)
            if turn:
                measured[name].seconds.append(seconds)
                measured[name].extra_gib = extra_gib
    return measured


def _once(run: Callable[[], object], device: torch.device) -> tuple[float, float | None]:
    on_gpu, held = device.type == "cuda", 0
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated(device) - held) / GIB if on_gpu else None


@dataclass(frozen=True, slots=True)
class Once(Generic[T]):
    """What one run in a process of its own gave; `peak_mb`: resident memory beyond what it began with, on Linux."""

    result: T
    seconds: float
    peak_mb: float | None


def in_child(run: Callable[[], T]) -> Once[T]:
    """Run in a fork of this process, which has the inputs already: they do not count. Not for Windows or a GPU."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_and_send, args=(run, sender))
    child.start()
    sender.close()
    try:
        once: Once[T] = receiver.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"a benchmark ended with exit code {child.exitcode} in a process of its own") from None
    child.join()
    return once


def _run_and_send(run: Callable[[], T], sender: Connection) -> None:
    clear = Path("/proc/self/clear_refs")
    is_told = clear.exists()
    if is_told:
        clear.write_text("5")  # the peak is now what is held now
    before = _resident_mb("VmRSS") if is_told else 0.0
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    sender.send(Once(result, seconds, max(0.0, _resident_mb("VmHWM") - before) if is_told else None))


# Its peak is the command's own: that of a child of this process would begin with the memory held here.
_LAUNCHER = """
import os, subprocess, sys
command = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(command.pid, 0)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a command took: seconds, those of them that it computed, and its peak of resident memory, mapped pages
    included."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def command_alone(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Spent:
    """Run a command in a process of its own; on Linux."""
    start = time.perf_counter()
    launch = [sys.executable, "-c", _LAUNCHER, *command]
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    peak, cpu_seconds = map(float, done.stdout.split())
    return Spent(time.perf_counter() - start, cpu_seconds, 1024 * peak / 1e6)


def _resident_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Of the quickest times, and the median over the rounds."""
    return {
        "ratio (min)": min(numerator) / min(denominator),
        "ratio (median)": median(a / b for a, b in zip(numerator, denominator, strict=True)),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    on_gpu = device.type == "cuda"
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
