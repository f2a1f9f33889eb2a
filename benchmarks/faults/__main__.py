"""The fault table: every script of this folder, one after the other.

    python -m benchmarks.faults [NAME …]         (as root, on Linux, for all rows)

Each script prints what it shows as it goes; the rows of the table are those of all scripts that could run here. Ends
with 1 where one of them failed.
"""

import subprocess
import sys
import time

SCRIPTS = (
    *("worker_killed", "node_removed", "two_hosts", "head_lost", "driver_killed", "two_drivers"),
    *("disk_full", "read_only", "object_store", "damaged", "clock_skew"),
)


def main(names: list[str]) -> int:
    rows, failed = [], []
    for name in names or SCRIPTS:
        print(f"# {name}", flush=True)
        start = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.faults.{name}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            print(line, end="", flush=True)
            found += [line] if line.startswith("| ") else []
        if process.wait():
            failed.append(name)
        good = "**no**" if process.returncode else "yes"
        rows += found or [f"| {name} | as printed above | exit code {process.returncode} | {good} |\n"]
        print(f"# {name}: exit code {process.returncode}, {time.monotonic() - start:.0f} s\n", flush=True)
    print("| fault | what happened | the same command in the end | as it should be |\n|---|---|---|---|")
    print("".join(rows), end="")
    if failed:
        print(f"not as it should be, or could not run here: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
