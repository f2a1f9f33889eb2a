"""Last words: told where a process is ended from outside, and not where it ends by itself."""

import subprocess
import sys

import pytest

RUN = "import os, sys; from tamis.engine.farewell import leave_last_words; leave_last_words('the cluster is gone'); "


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_process_ended_from_outside_leaves_its_last_words(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN + how], capture_output=True, text=True, check=False)
    assert done.returncode in (1, -9)
    assert done.stderr == "the cluster is gone\n"


@pytest.mark.parametrize("how", ["pass", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_a_process_that_ends_by_itself_does_not(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN + how], capture_output=True, text=True, check=False)
    assert "gone" not in done.stderr.replace(RUN, "")
