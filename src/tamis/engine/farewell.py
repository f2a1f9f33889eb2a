"""The last words of a process that is ended unasked, as Ray's core ends a driver whose cluster is gone."""

import atexit
import subprocess
import sys

_WATCH = "import sys; sys.stdin.buffer.read(1) or sys.stderr.write(sys.argv[1])"


def leave_last_words(sentence: str) -> None:
    """Have a sentence told on stderr where this process ends without Python's exit handlers, however it does.

    A process of its own waits for the end: of a pipe, which the system closes for the dead too.
    """
    watch = subprocess.Popen(
        [sys.executable, "-ESc", _WATCH, f"{sentence}\n"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt of the terminal is not for it
    )
    atexit.register(watch.communicate, b".")
