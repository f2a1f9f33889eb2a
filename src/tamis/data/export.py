"""Subsets out: the original rows, unchanged."""

import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tamis.data.example import Example
from tamis.data.lines import line_digest, open_lines
from tamis.errors import InputError


def write_selected(path: str | Path, examples: Sequence[Example]) -> None:
    """Write the original line of each example, byte for byte, in the given order; only a missing last newline is added.

    The files are read again up to the last line needed; the selected lines are held in memory. InputError where a file
    is gone or a line is no longer the one that was read. The output is whole or absent.
    """
    wanted: dict[str, dict[int, str]] = defaultdict(dict)
    for example in examples:
        wanted[example.file][example.row] = example.line_digest
    lines = {file: _lines(file, digests) for file, digests in wanted.items()}
    atomic_write(path, (lines[example.file][example.row] for example in examples))


def _lines(file: str, digests: dict[int, str]) -> dict[int, bytes]:
    """The wanted lines of one file by row number, checked against their digests."""
    if not Path(file).is_file():
        raise InputError(f"{file}: the file is gone since it was read; put it back, or select again")
    found: dict[int, bytes] = {}
    last = max(digests)
    for number, line in open_lines(file):
        if number in digests:
            if line_digest(line) != digests[number]:
                raise InputError(f"{file} row {number}: the file changed since it was read; select again")
            found[number] = line if line.endswith(b"\n") else line + b"\n"
        if number == last:
            return found
    raise InputError(f"{file} row {last}: the file changed since it was read, it ends before this row; select again")


def atomic_write(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file: to a temporary name beside it, synced, then renamed. A file already there is replaced."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
