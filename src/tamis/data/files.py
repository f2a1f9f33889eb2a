"""Reading examples from files of any container and format, one row at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from tamis.data.containers import open_rows, stem
from tamis.data.example import Example
from tamis.data.formats import (
    REMEDY,
    Fields,
    Format,
    check_fields,
    messages_of,
    recognise,
    unwrapped,
    with_fields,
)
from tamis.data.index import Index
from tamis.data.lines import BadRow, Line, Row, UnknownRow, line_digest, parse
from tamis.data.messages import objects
from tamis.data.places import expand
from tamis.errors import InputError

_ORIGIN_FIELDS = {"id", "source", "dataset", "subtask", "group"}
_HOPELESS_ROWS = 1000  # so many bad rows and no good one: the rest of the file will not be better


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used, why, and its text where there is one."""

    file: str
    row: int
    reason: str
    line: bytes | None = None


@dataclass(frozen=True, slots=True)
class FileReport:
    """How one file was read: the format of its first good row, fields read and not read, counts.

    as_named   whether --field and --format, if given, apply to it
    """

    path: str
    format: str
    fields: tuple[str, ...]
    unread: tuple[str, ...]
    n_good: int
    n_bad: int
    as_named: bool

    @property
    def recognised(self) -> str:
        """One phrase for people."""
        unread = f"; not read: {', '.join(self.unread)}" if self.unread else ""
        return f"recognised as {self.format} by fields {', '.join(self.fields)}{unread}"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """All good rows in file order, a report of each file opened, and every bad row."""

    examples: Index = field(default_factory=Index)
    files: list[FileReport] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def read(
    paths: Sequence[str],
    *,
    fields: Fields | None = None,
    format_name: str | None = None,
    limit: int | None = None,
    on_bad_row: Literal["skip", "error"] = "skip",
    max_bad: Fraction | None = None,
) -> ReadResult:
    """Examples of all files that the paths and glob patterns name; a file named twice is read once.

    fields       name → columns: read `prompt`, `completion`, `messages`, `id`, … from these columns
    format_name  read rows as this format
    limit        stop after so many good rows over all files
    on_bad_row   skip: a bad row is kept in `rejected` with its reason and costs no other row; error: it ends the run
    max_bad      the largest share of bad rows in a file; more mean that the file is read in a wrong way. One bad row is
                 no such sign, however short the file, unless the share is 0

    What `fields` and `format_name` say holds for the files whose first row has such a column, or fits the format; other
    files are read by what they hold (`FileReport.as_named`). Blank lines are passed over. Of a compressed stream or an
    array that breaks off, the rows before the break are kept.

    InputError: a pattern without a match, a container that is not read, a file without any good row, too many bad rows.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1 row, found {limit}")
    fields = fields or {}
    forced = check_fields(fields, format_name)
    result = ReadResult()
    for path in expand(paths):
        left = None if limit is None else limit - len(result.examples)
        if left == 0:
            break
        reader = _Reader(path, fields, forced, left, on_bad_row)
        for example in reader.read():
            result.examples.append(example)
        reader.check(max_bad)
        result.rejected.extend(reader.rejected)
        result.files.append(reader.report())
    return result


class _Reader:
    """One file being read. `first` is the format of its first good row, with that row."""

    def __init__(self, path: str, fields: Fields, forced: Format | None, limit: int | None, on_bad_row: str) -> None:
        self.path, self.fields, self.forced, self.limit, self.on_bad_row = path, fields, forced, limit, on_bad_row
        self.n_good = 0
        self.rejected: list[Rejected] = []
        self.first: tuple[Format, Row] | None = None
        self.remedy = "mend the rows or leave the file out"
        self.as_named: bool | None = None  # not known before the first row

    def read(self) -> Iterator[Example]:
        """The good rows, up to the limit."""
        for number, line in open_rows(self.path):
            if isinstance(line, bytes) and not line.strip():
                continue
            for example in self._examples(number, line):
                self.n_good += 1
                yield example
                if self.n_good == self.limit:
                    return
            if len(self.rejected) >= _HOPELESS_ROWS and not self.n_good:
                return

    def _examples(self, number: int, line: Line) -> Iterator[Example]:
        try:
            if isinstance(line, BadRow):
                raise line
            row, format_ = self._row(parse(line))
            parts = [row] if format_.split is None else format_.split(row)
        except BadRow as bad:
            if isinstance(bad, UnknownRow):
                self.remedy = bad.remedy
            self._reject(number, line, str(bad))
            return
        for instance, part in enumerate(parts, 1):
            several = len(parts) > 1
            try:
                example = self._example(part, format_, number, line, instance if several else None)
            except BadRow as bad:
                self._reject(number, line, f"instance {instance}: {bad}" if several else str(bad))
                continue
            self.first = self.first or (format_, row)
            yield example

    def _row(self, row: Row) -> tuple[Row, Format]:
        if self.as_named is None:
            self.as_named = self._fits(row)
            if not self.as_named:
                self.fields, self.forced = {}, None
        if self.fields:
            row = with_fields(row, self.fields)
        if self.forced is not None:
            if not self.forced.fits(row):
                wanted = " and ".join(" or ".join(names) for names in self.forced.required)
                found = ", ".join(row)
                raise UnknownRow(f"expected {wanted}, found {found}", REMEDY)
            return row, self.forced
        first = self.first and self.first[0]
        try:
            return row, recognise(row, first)
        except BadRow:
            inner = unwrapped(row)
            if inner is row:
                raise
            return inner, recognise(inner, first)

    def _fits(self, row: Row) -> bool:
        columns = {column for columns in self.fields.values() for column in columns}
        return any(column in row for column in columns) or (
            not columns and (self.forced is None or self.forced.fits(row))
        )

    def _example(self, row: Row, format_: Format, number: int, line: bytes, instance: int | None) -> Example:
        tools = row.get("tools") if "tools" in format_.optional else None
        tools = None if tools in (None, "", "[]") else objects(tools, "field tools")
        return Example.of(
            messages_of(row, format_),
            source=_label(row, "source", "dataset") or stem(self.path),
            file=self.path,
            row=number,
            row_id=_label(row, "id"),
            group=_label(row, "subtask", "group"),
            tools=tools or None,
            line_digest=line_digest(line),
            instance=instance,
        )

    def _reject(self, number: int, line: Line, reason: str) -> None:
        if self.on_bad_row == "error":
            raise InputError(f"{self.path} row {number}: {reason}; mend or remove it, or say --on-bad-row skip")
        self.rejected.append(Rejected(self.path, number, reason, line if isinstance(line, bytes) else None))

    def check(self, max_bad: Fraction | None) -> None:
        """InputError for a file of which too little can be read."""
        n_bad, n_rows = len(self.rejected), len(self.rejected) + self.n_good
        if n_rows == 0:
            raise InputError(f"{self.path}: found an empty file, expected rows; name another file or leave it out")
        reasons: dict[str, Rejected] = {}
        for bad in self.rejected:
            reasons.setdefault(bad.reason, bad)
        shown = "; ".join(f"row {bad.row}: {bad.reason}" for bad in list(reasons.values())[:3])
        if not self.n_good:
            first = "first " if n_bad >= _HOPELESS_ROWS else ""
            other = " (those given do not fit this file)" if self.as_named is False else ""
            raise InputError(
                f"{self.path}: none of the {first}{n_bad:,} rows can be used: {shown}; {self.remedy}{other}"
            )
        if max_bad is not None and n_bad > max_bad * n_rows and n_bad > bool(max_bad):
            raise InputError(
                f"{self.path}: {n_bad:,} of {n_rows:,} rows are bad, more than {float(100 * max_bad):g}%, so the "
                f"file is probably read in a wrong way: {shown}; see them with `tamis inspect`, name the columns "
                "with --field, or raise --max-bad-rows"
            )

    def report(self) -> FileReport:
        """How the file was read: the fields read (`name=column` where that was asked for), and those nothing reads."""
        assert self.first is not None
        format_, row = self.first
        names = format_.fields(row) or ()
        columns = {column for columns in self.fields.values() for column in columns}
        unread = tuple(name for name in row if name not in {*names, *columns, *_ORIGIN_FIELDS})
        read = tuple(f"{name}={','.join(self.fields[name])}" if name in self.fields else name for name in names)
        return FileReport(self.path, format_.name, read, unread, self.n_good, len(self.rejected), self.as_named is True)


def _label(row: Row, *names: str) -> str | None:
    """The first of the fields that holds a string with something in it, or an integer."""
    for name in names:
        value = row.get(name)
        if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return None
