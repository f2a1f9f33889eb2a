"""Two hosts, as far as one machine can: network namespaces with addresses of their own, joined by a virtual cable.

    python -m benchmarks.faults.two_hosts        (as root, on Linux)

`ray start --head` in one, `ray start --address=…` in the other, the driver in the first; the workspace is a folder that
both see. The second host does part of the work; then the cable is pulled (nobody is told: packets are lost), and in
another run the second host dies. Shows that the run finishes, and that stores and picks are those of an undisturbed run
of one process. Both hosts have the same host name and share memory and processes: that is not simulated.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.faults import small_run
from benchmarks.faults.small_run import row

NETWORK, PORT = "10.213.7", 6379
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
SLOW_TO_NOTICE = {  # half a minute by default: a cable that is pulled for a moment is no loss
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    number: int

    @property
    def name(self) -> str:
        return f"tamis-{os.getpid()}-{self.number}"

    @property
    def cable(self) -> str:
        return f"tm{os.getpid() % 100_000}-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def within(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.name

    def start_ray(self, head: "Host", folder: Path) -> None:
        """One node of a Ray cluster of one CPU a host."""
        role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if self != head:
            role = [f"--address={head.address}:{PORT}"]
        where = [f"--node-ip-address={self.address}", "--num-cpus=1", f"--object-store-memory={1 << 27}"]
        where += [f"--temp-dir={folder}"] if self == head else []
        call(*self.within, *_RAY, "start", *role, *where)

    def processes(self) -> list[psutil.Process]:
        """All that runs in this namespace."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [psutil.Process(int(pid)) for pid in done.stdout.split() if psutil.pid_exists(int(pid))]


def call(*words: str) -> None:
    environment = {**small_run.environment(), **SLOW_TO_NOTICE}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = f"{done.stdout.strip()}\n{done.stderr.strip()}".strip()
        raise SystemExit(f"this script needs network namespaces and Ray in them; here fails: {' '.join(words)}\n{said}")


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two namespaces joined by a cable, a Ray cluster over both."""
    first, second = Host(1), Host(2)
    try:
        for host in (first, second):
            call("ip", "netns", "add", host.name)
        call("ip", "link", "add", first.cable, "type", "veth", "peer", "name", second.cable)
        for host in (first, second):
            call("ip", "link", "set", host.cable, "netns", host.name)
            call("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", host.cable)
            for link in ("lo", host.cable):
                call("ip", "-n", host.name, "link", "set", link, "up")
        for host in (first, second):
            host.start_ray(first, folder)
        yield first, second
    finally:
        for host in (first, second):
            for process in host.processes():
                process.kill()
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def pull_cable(host: Host) -> None:
    call("ip", "-n", host.name, "link", "set", host.cable, "down")


def die(host: Host) -> None:
    for process in host.processes():
        process.kill()


def main() -> None:
    good = []
    with small_run.prepared() as (folder, data, calm):
        for what, accident in (("nothing happens", None), ("cable pulled", pull_cable), ("second host dies", die)):
            here = folder / what.replace(" ", "-")
            workspace = small_run.warmed_up(calm, here / "ws")
            n_shards = small_run.n_pool_shards(calm / "ws")
            with two_hosts(here / "ray") as (first, second):
                settings = (f"engine.address={first.address}:{PORT}", "engine.workers=2")
                start = time.monotonic()
                process = small_run.started("select", data, workspace, here / "out", *settings, within=first.within)
                under_way = small_run.wait_for_shards(workspace, n_shards // 3, process)
                at_work = sum("MapWorker" in worker.name() for worker in second.processes())
                n_there = small_run.n_pool_shards(workspace)
                if accident is not None:
                    accident(second)
                _, stderr = process.communicate()
            identical = process.returncode == 0 and small_run.same(calm, workspace, here / "out")
            if not identical:
                print(stderr[-3000:])
            good.append(
                row(
                    f"two hosts (network namespaces): {what}",
                    f"at {n_there} of {n_shards} shards, {at_work} worker at work on the second host; "
                    f"{time.monotonic() - start:.0f} s in all",
                    "identical" if identical else f"exit code {process.returncode}",
                    identical and under_way and at_work == 1,
                )
            )
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
