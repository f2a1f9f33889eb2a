"""Reading examples from JSON Lines files, plain or gzipped, one line at a time."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tamis.data.example import Example
from tamis.data.formats import EXPECTED, Fields, Format, check_fields, messages_of, objects, recognise, with_fields
from tamis.data.lines import BadRow, Row, expand, line_digest, open_lines, parse
from tamis.errors import InputError

_ORIGIN_FIELDS = {"id", "source", "dataset", "subtask", "group"}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used, and why."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """How one file was read: the format of its first good row (None without one), fields read and not read, counts."""

    path: str
    format: str | None
    fields: tuple[str, ...]
    unread: tuple[str, ...]
    n_good: int
    n_bad: int

    @property
    def recognised(self) -> str:
        """One phrase for people."""
        if self.format is None:
            return "no format recognised"
        unread = f"; not read: {', '.join(self.unread)}" if self.unread else ""
        return f"recognised as {self.format} by fields {', '.join(self.fields)}{unread}"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """All good rows in file order, a report of each file opened, and every bad row."""

    examples: list[Example] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def read(paths: Sequence[str], *, fields: Fields | None = None, limit: int | None = None) -> ReadResult:
    """Examples of all files that the paths and glob patterns name; a file named twice is read once.

    fields   name → columns: read `prompt`, `completion`, `messages`, `id`, `source` or `group` from these columns
    limit    stop after so many good rows over all files

    A bad row is kept in `rejected` with its reason and costs no other row. Blank lines are passed over. A gzip stream
    that breaks off keeps the rows before the break. InputError: a pattern without a match, a file that is empty or
    that is not JSON Lines, no good row at all. Not covered: JSON arrays, Parquet, CSV, other compressions.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1 row, found {limit}")
    fields = fields or {}
    forced = check_fields(fields)
    result = ReadResult()
    for path in expand(paths):
        if limit is None or len(result.examples) < limit:
            _read_file(path, fields, forced, limit, result)
    if not result.examples:
        _no_good_row(result)
    return result


def _read_file(path: str, fields: Fields, forced: Format | None, limit: int | None, result: ReadResult) -> None:
    examples, rejected = result.examples, result.rejected
    good_before, bad_before, number = len(examples), len(rejected), 0
    first: Format | None = forced
    report: tuple[str | None, tuple[str, ...], tuple[str, ...]] = (None, (), ())
    try:
        for number, line in open_lines(path):
            if not line.strip():
                continue
            try:
                row = with_fields(parse(line), fields)
                format_ = _format(row, first, forced)
                examples.append(_example(row, format_, path, number, line))
            except BadRow as bad:
                rejected.append(Rejected(path, number, str(bad)))
                continue
            if report[0] is None:
                first, report = format_, _fields_read(row, format_, fields)
            if len(examples) == limit:
                break
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip stream is damaged here ({error}); the rows before are kept: fetch the file again"
        rejected.append(Rejected(path, number + 1, reason))
    n_good, n_bad = len(examples) - good_before, len(rejected) - bad_before
    if n_good + n_bad == 0:
        raise InputError(f"{path}: expected JSON Lines, found an empty file; name another file or leave it out")
    result.files.append(FileReport(path, *report, n_good, n_bad))


def _fields_read(row: Row, format_: Format, fields: Fields) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The format's name, the fields it reads (`name=column` where that was asked for), and those nothing reads."""
    names = format_.fields(row) or ()
    columns = {column for columns in fields.values() for column in columns}
    unread = tuple(name for name in row if name not in {*names, *columns, *_ORIGIN_FIELDS})
    return format_.name, tuple(f"{name}={','.join(fields[name])}" if name in fields else name for name in names), unread


def _format(row: Row, first: Format | None, forced: Format | None) -> Format:
    if forced is None or forced.fields(row) is not None:
        return recognise(row, first)
    wanted = " and ".join(" or ".join(names) for names in forced.required)
    raise BadRow(f"expected {wanted}, found the fields {', '.join(row)}: name the missing one with --field NAME=COLUMN")


def _example(row: Row, format_: Format, path: str, number: int, line: bytes) -> Example:
    tools = row.get("tools") if "tools" in format_.optional else None
    return Example.of(
        messages_of(row, format_),
        source=_label(row, "source", "dataset") or _stem(path),
        file=path,
        row=number,
        row_id=_label(row, "id"),
        group=_label(row, "subtask", "group"),
        tools=(objects(tools, "field tools") or None) if tools is not None else None,
        line_digest=line_digest(line),
    )


def _label(row: Row, *names: str) -> str | None:
    """The first of the fields that holds a string with something in it, or an integer."""
    for name in names:
        value = row.get(name)
        if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return None


def _stem(path: str) -> str:
    name = Path(path).name
    return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def _no_good_row(result: ReadResult) -> NoReturn:
    first: dict[str, Rejected] = {}
    for bad in result.rejected:
        first.setdefault(bad.reason, bad)
    shown = "; ".join(f"{bad.file} row {bad.row}: {bad.reason}" for bad in list(first.values())[:3])
    raise InputError(
        f"none of the {len(result.rejected)} rows can be used: {shown}. Expected {EXPECTED}; "
        "or name the columns: --field prompt=COLUMN --field completion=COLUMN"
    )
