"""Programs that a model wrote, run where they can do no harm.

Each has its own user, process, mount, network and IPC namespaces (Linux 5.12 and later, no privileges needed), two
environment variables of our own (HOME, LANG), empty input, output that is thrown away, and no file system but system
libraries and this Python's `lib` (packages installed there can be read, though not imported by name), read-only, and an
empty /tmp in memory. With its first process everything that it started ends. It has no capability, calls of
`sandbox_filter` are refused, and where tamis runs as root, it is the user nobody.

Some right programs fail: those that need another program (there is none to start), /proc, mmap of shared memory without
a file, or more than `Limits`. Processes of multiprocessing have to be started by fork.

Not covered: a program that sets out to deceive. Tests and program share one interpreter, so that a program can look for
the memory that tells success, or compare equal to anything. Nor are faults of the kernel. Of memory, what grows within
0.1 s, was swapped out, or is the kernel's own (pipes, sockets) is bounded only by limits per process and per user.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from tamis.errors import InputError
from tamis.evaluation.sandbox_filter import refusals

_CHILD = Path(__file__).with_name("sandbox_child.py")
_LOOK_SECONDS, _START_SECONDS = 0.1, 60.0
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/urandom")  # not /dev/zero, which gives memory that nobody can count
_VISIBLE = tuple(dict.fromkeys([*_LIBRARIES, *_DEVICES, f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64"]))


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    seconds        of wall clock
    memory_bytes   address space of each process, and resident memory of all of them together (looked at every 0.1 s;
                   pages that processes share count once for each)
    file_bytes     of all its files together, which live in memory beside the above
    n_files        files and folders it may have
    n_processes    processes and threads at a time
    """

    seconds: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    n_files: int = 256
    n_processes: int = 16


@dataclass(frozen=True)
class Outcome:
    """Whether a program came to its end without an error, and what happened.

    Reasons: passed; assertion failed; error: NAME: MESSAGE (one line, at most 200 characters, text of the program);
    left before its tests were done; timed out; out of memory; killed by SIGNAL.
    """

    passed: bool
    reason: str


def run_tests(programs: Sequence[str], limits: Limits | None = None, workers: int | None = None) -> list[Outcome]:
    """Run programs, several at a time, each in a sandbox of its own; outcomes in their order.

    A program passes if it runs to its last line: leaving early, with whatever status, or printing does not count.
    `workers` is as many as there are processors unless given. InputError where the sandbox cannot be built: nothing
    runs without.
    """
    check_sandbox()
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    stop = threading.Event()
    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(partial(_run, limits=limits or Limits(), stop=stop), programs))
    finally:
        stop.set()  # interrupted, we do not wait for a program's last second
        pool.shutdown(cancel_futures=True)


def check_sandbox() -> None:
    """Try the sandbox. InputError that says what is missing where it cannot be built, or does not hold."""
    if sys.platform != "linux":
        raise InputError(f"running generated code needs the namespaces of Linux, found {sys.platform}; use Linux")
    outcome = _run(f"visible = {_VISIBLE!r}\n{_PROBE}", Limits(seconds=60.0, n_processes=4), threading.Event())
    if not outcome.passed:
        raise InputError(f"the sandbox for generated code does not hold ({outcome.reason}); run on another machine")


_PROBE = """
import ctypes, errno, os, signal, socket
def expect(holds, what):
    if not holds:
        raise RuntimeError(what)
expect(os.getpid() == 2, "processes outside can be seen")
def look(folder):
    for name in os.listdir(folder):
        place = os.path.join(folder, name)
        if place not in visible and place != "/dev/shm":
            expect(place == "/tmp" or any(known.startswith(place + "/") for known in visible), f"{place} can be seen")
            look(place)
look("/")
libc = ctypes.CDLL(None)
expect(libc.unshare(0x10000000) == -1, "user namespaces can be made")
expect(not hasattr(libc, "memfd_create") or libc.memfd_create(b"m", 0) == -1, "memory can be had as files")
expect(not any(os.access(place, os.W_OK) for place in ("/", "/etc", "/usr/lib", os.__file__)), "files can be written")
try:
    socket.create_connection(("192.0.2.1", 9), 1)
except OSError as error:
    expect(error.errno == errno.ENETUNREACH, f"there is a network ({error})")
children = 0
try:
    while children < 9:
        if not os.fork():
            signal.pause()
        children += 1
except BlockingIOError:
    pass
expect(children == 3, f"forks are not bounded ({children})")
"""


def _run(program: str, limits: Limits, stop: threading.Event) -> Outcome:
    """One program from start to end; when this returns, none of its processes is left."""
    ours, theirs = os.pipe()
    job = {**asdict(limits), "program": program, "report": theirs, "parent": os.getpid()}
    job |= {"visible": _VISIBLE, "filter": refusals().hex()}
    try:
        with tempfile.TemporaryFile("w+") as file:
            json.dump(job, file)
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD)],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs],
                start_new_session=True,
                env={"HOME": "/tmp", "LANG": "C.UTF-8"},
                cwd="/",
            )
        os.close(theirs)
        theirs = -1
        met = _wait(process, ours, limits, stop)
        os.set_blocking(ours, False)
        told = os.read(ours, 1 << 16).decode(errors="replace")
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    return _outcome(told, met, process.returncode)


def _wait(process: subprocess.Popen[bytes], ours: int, limits: Limits, stop: threading.Event) -> str | None:
    """Wait for the end; at a limit end everything. None, or the limit that was met."""
    deadline = time.monotonic() + _START_SECONDS
    ended = os.pidfd_open(process.pid)
    waiting = [ended, ours]
    try:
        while not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return "timed out"
            ready = select.select(waiting, [], [], min(_LOOK_SECONDS, left))[0]
            if ended in ready:
                return None
            if ready:  # the program starts
                deadline = time.monotonic() + limits.seconds
                waiting = [ended]
            elif _resident_bytes(process.pid) > limits.memory_bytes:
                return "out of memory"
        return "stopped"
    finally:
        os.close(ended)
        process.terminate()  # it ends process 1 of the namespace, the kernel everything else there, and then itself
        process.wait()


def _resident_bytes(pid: int) -> int:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += child.memory_info().rss
    return total


def _outcome(told: str, met: str | None, status: int) -> Outcome:
    """What was told of a program's end, the limit that it met, or its status."""
    started, _, reason = told.partition("\n")
    if started != "started":
        found = started or f"no sandbox: it did not start ({met or f'status {status}'})"
        raise InputError(
            f"{found}; generated code runs only where Linux (5.12 or later) lets users make user, process, mount and "
            "network namespaces: see user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns and the "
            "seccomp profile of a container"
        )
    if met is not None:
        return Outcome(False, met)
    if reason:
        return Outcome(reason == "passed", reason)
    if status > 128 and status - 128 in set(signal.Signals):
        return Outcome(False, f"killed by {signal.Signals(status - 128).name}")
    return Outcome(False, "left before its tests were done")
