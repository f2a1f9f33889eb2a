"""JSON text as rows: one object a line, or one array, streamed; and what can be wrong with a row."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tamis.data.example import digest

Row = dict[str, Any]

_UTF8_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
# A whole string, or one of the characters that shape an array; a quote alone is a string whose end is not read yet
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)


class BadRow(Exception):
    """Why one row cannot be used; never leaves the reader."""


class UnknownRow(BadRow):
    """No format fits the fields of a row; `remedy` says what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


Line = bytes | BadRow  # a row as one line of JSON, or why there is none


def line_digest(line: bytes) -> str:
    """Digest of a line without its line end."""
    return digest(line.rstrip(b"\r\n"))


def parse(line: bytes) -> Row:
    """The JSON object of one line. BadRow for anything else, NaN and half surrogate pairs included."""
    try:
        row = _DECODER.decode(line.rstrip(b"\r\n").decode())
        if b"\\ud" in line.lower():  # an escape like "\ud83d" on its own is valid JSON, but no text
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}") from error
    except UnicodeEncodeError as error:
        raise BadRow("a string holds half of a surrogate pair, which is no character") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} (character {error.pos + 1})") from error
    except RecursionError as error:
        raise BadRow("not readable JSON: nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise BadRow(f"not readable JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow(f"expected a JSON object, found {line.strip()[:40].decode(errors='replace')}")
    return row


def _refuse_constant(name: str) -> Any:
    raise BadRow(f"not valid JSON: {name} is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def json_rows(file: Any, *, may_be_one_value: bool) -> Iterator[tuple[int, Line]]:
    """(row number from 1, line) of JSON Lines or of one array, whichever the file holds; a byte order mark is left out.

    The number is that of the line, or of the array's element. `may_be_one_value`: a file whose first line is no whole
    value may be one value over many lines, which is one row.
    """
    if file.peek(16)[:3] == _UTF8_MARK:
        file.read(3)
    if file.peek(16).lstrip().startswith(b"["):  # only peeked at: an array is often one line of the whole file
        yield from enumerate(_elements(file), 1)
        return
    for number, line in enumerate(file, 1):
        if number == 1 and may_be_one_value and not _is_json(line):
            rest = file.read()
            if rest.strip() and _is_json(line + rest):
                yield 1, _one_line(line + rest)
            else:
                yield from enumerate((line + rest).splitlines(keepends=True), 1)
            return
        yield number, line


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _one_line(text: bytes) -> bytes:
    """JSON over several lines as one: a line break can only stand between tokens, so nothing else changes."""
    return b" ".join(part.strip() for part in text.split(b"\n")).strip() if b"\n" in text else text.strip()


def _elements(file: BinaryIO) -> Iterator[Line]:
    """The elements of the array a file holds, each as its own text; at most one element and one chunk in memory.

    Elements are told apart by brackets and strings alone, so one that is not valid JSON costs no other.
    """
    buffer, size = b"", _CHUNK
    start = scanned = 0
    depth, n_found = 0, 0
    while chunk := file.read(size):
        buffer, scanned, start = buffer[start:] + chunk, scanned - start, 0
        for token in _TOKEN.finditer(buffer, scanned):
            scanned, kind = token.end(), buffer[token.start() : token.start() + 1]
            if kind == b'"' and len(token[0]) == 1:
                scanned = token.start()
                break
            if kind in b"[{":
                depth += 1
                if depth == 1:
                    start = scanned
            elif kind in b"]}":
                depth -= 1
            if depth == 0 or (depth == 1 and kind == b","):
                element, start = buffer[start : token.start()], scanned
                if element.strip() or n_found or depth:  # not the one that an empty array would have
                    n_found += 1
                    yield _one_line(element)
            if depth == 0:
                if (buffer[scanned:] + file.read()).strip():
                    yield BadRow("expected the end of the file after the array, found more text")
                return
        else:
            scanned = len(buffer)
        size = max(_CHUNK, len(buffer))  # an element longer than a chunk: read on in steps that grow with it
    rest = _one_line(buffer[start:])
    if depth == 1 and _is_json(rest):  # only the closing bracket is missing
        yield rest
        rest = b"the end of the file"
    opened = rest[:40].decode(errors="replace")
    yield BadRow(f"the array, or something in it, is not closed; from here on rows cannot be told apart: {opened}")
