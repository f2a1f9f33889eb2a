"""Subsets out: the original rows, unchanged."""

import base64
import json
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tamis.data.containers import HUB, open_rows
from tamis.data.example import Example
from tamis.data.files import Rejected
from tamis.data.lines import BadRow, line_digest
from tamis.errors import InputError
from tamis.remote import locate


def write_selected(path: str | Path, examples: Sequence[Example]) -> None:
    """Write the original row of each example as one line of JSON, in the given order.

    Rows of JSON Lines are written byte for byte (a missing last newline is added), elements of an array without the
    line breaks in them, rows of other containers as `tamis.data.containers` says. Of a row that holds several examples,
    only the instance that was picked is kept. The files are read again up to the last row needed; the selected rows are
    held in memory. InputError where a file is gone or a row is no longer the one that was read. The output is whole or
    absent.
    """
    atomic_write(path, original_rows(examples))


def original_rows(examples: Sequence[Example]) -> Iterator[bytes]:
    """The original row of each example as one line of JSON; see write_selected."""
    wanted: dict[str, dict[int, str]] = defaultdict(dict)
    for example in examples:
        wanted[example.file][example.row] = example.line_digest
    lines = {file: _lines(file, digests) for file, digests in wanted.items()}
    return (_instance(lines[example.file][example.row], example.instance) for example in examples)


def _instance(line: bytes, instance: int | None) -> bytes:
    if instance is None:
        return line
    row = json.loads(line)
    return json.dumps({**row, "instances": [row["instances"][instance - 1]]}, ensure_ascii=False).encode() + b"\n"


def _lines(file: str, digests: dict[int, str]) -> dict[int, bytes]:
    """The wanted rows of one file by number, checked against their digests."""
    if not file.startswith(HUB) and not locate(file).exists():
        raise InputError(f"{file}: the file is gone since it was read; put it back, or select again")
    found: dict[int, bytes] = {}
    last = max(digests)
    for number, line in open_rows(file):
        if number in digests:
            if isinstance(line, BadRow) or line_digest(line) != digests[number]:
                raise InputError(f"{file} row {number}: the file changed since it was read; select again")
            found[number] = line if line.endswith(b"\n") else line + b"\n"
        if number == last:
            return found
    raise InputError(f"{file} row {last}: the file changed since it was read, it ends before this row; select again")


def write_rejected(path: str | Path, rejected: Sequence[Rejected]) -> None:
    """Write every row that could not be read, as {"file", "row", "reason", "text"}; bytes that are no UTF-8 as base64.

    A row that a container could not give at all (a damaged stream, a CSV record) has neither.
    """
    atomic_write(path, (_rejected_line(bad) for bad in rejected))


def _rejected_line(bad: Rejected) -> bytes:
    fields = {"file": bad.file, "row": bad.row, "reason": bad.reason}
    if bad.line is not None:
        try:
            fields["text"] = bad.line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            fields["base64"] = base64.b64encode(bad.line).decode()
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n"


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
