"""Files as lines, lines as JSON objects: what can be wrong with them, and where."""

import glob
import gzip
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from tamis.data.example import digest
from tamis.errors import InputError

Row = dict[str, Any]

_GZIP, _LFS, _UTF8_MARK = b"\x1f\x8b", b"version https://git-lfs.github.com/spec/", b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class BadRow(Exception):
    """Why one row cannot be used; never leaves the reader."""


# ---- one line ------------------------------------------------------------------------------------------------------


def line_digest(line: bytes) -> str:
    """Digest of a line without its line end."""
    return digest(line.rstrip(b"\r\n"))


def parse(line: bytes) -> Row:
    """The JSON object of one line. BadRow for anything else, NaN and half surrogate pairs included."""
    try:
        row = json.loads(line.rstrip(b"\r\n").decode(), parse_constant=_refuse_constant)
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


# ---- files ---------------------------------------------------------------------------------------------------------


def open_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, the line with its line end); a byte order mark is left out. Streams; one line in memory.

    InputError for a file that is not JSON Lines, plain or gzipped. A damaged gzip stream raises EOFError,
    gzip.BadGzipFile or zlib.error after its last whole line.
    """
    zipped = _check_name(path)
    with Path(path).open("rb") as raw:
        start = raw.read(len(_LFS))
        if start == _LFS:
            raise InputError(f"{path}: found a Git LFS pointer instead of the data; fetch it with `git lfs pull`")
        if start and (start[:2] == _GZIP) != zipped:
            found = "no gzip data" if zipped else "gzip data"
            raise InputError(f"{path}: found {found} under this name; rename it or fetch it again")
    with gzip.open(path) if zipped else Path(path).open("rb") as file:
        # Only peeked at: an array is often one line of the whole file
        if file.peek(16).removeprefix(_UTF8_MARK).lstrip().startswith(b"["):
            _not_read(path, "found a JSON array")
        for number, line in enumerate(file, 1):
            if number > 1:
                yield number, line
                continue
            line = line.removeprefix(_UTF8_MARK)
            _check_first(path, line)
            yield number, line


def _check_name(path: str) -> bool:
    """True for a gzipped file. InputError for a container that is not read, or a file that is not there."""
    name = Path(path).name
    if not name.removesuffix(".gz").endswith((".jsonl", ".json")):
        _not_read(path, f"found {''.join(Path(name).suffixes[-2:]) or 'no file extension'}")
    return name.endswith(".gz")


def _check_first(path: str, line: bytes) -> None:
    if line.startswith(_UTF16_MARKS):
        raise InputError(f"{path}: expected UTF-8, found UTF-16; convert it, for example with iconv")
    if path.removesuffix(".gz").endswith(".json"):
        try:
            parse(line)
        except BadRow:
            _not_read(path, "found one JSON value over many lines")


def _not_read(path: str, found: str) -> NoReturn:
    raise InputError(
        f"{path}: {found}: this container is not read yet; read are .jsonl and .jsonl.gz. Write one JSON object a line"
    )


def expand(paths: Sequence[str]) -> list[str]:
    """The files that paths and glob patterns name, each pattern's in sorted order, every file once.

    InputError for a pattern that matches nothing, naming it and the nearest existing names.
    """
    found: dict[Path, str] = {}
    for pattern in paths:
        path = Path(pattern).expanduser()
        if path.is_dir():
            raise InputError(f"{pattern}: expected files, found a folder; say {pattern.rstrip('/')}/*.jsonl")
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [name for name in matches if not Path(name).is_dir()]
        if not files:
            raise InputError(f"{pattern}: no such file; {_nearest(path)}")
        for name in files:
            found.setdefault(Path(name).resolve(), name)
    return list(found.values())


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file() and entry.name[0] != ".")
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f"nearest in {path.parent}: {', '.join(near)}"
    return f"{path.parent} holds {', '.join(names[:5]) or 'no files'}{', …' if len(names) > 5 else ''}"
