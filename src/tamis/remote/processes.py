"""Which processes of this machine are alive, where their numbers mean something."""

import os
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """This boot of this machine, and this space of process numbers (a container has its own); "?" if it does not say.

    Host names would not do: containers on one host may share theirs.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}-{''.join(filter(str.isdigit, str(Path('/proc/self/ns/pid').readlink())))}"
    except OSError:
        return "?"


def is_dead(of_machine: str, number: str) -> bool:
    """Whether a process was of this machine and is gone; False where that cannot be told."""
    if of_machine == "?" or of_machine != machine() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
