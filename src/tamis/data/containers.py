"""Containers: files, folders and hub data sets as numbered rows, each row one line of JSON.

    .jsonl .json .ndjson    one object a line, or one array; row = line, or element, from 1
    .csv .tsv               with a header; row = record after the header, from 1; every value is a string
    .parquet                row = record, from 1
    folder                  as `datasets.save_to_disk` writes it; of several splits `train`
    hf://NAME?config=C&split=S&revision=R    a data set of the Hugging Face hub, or a local folder, by `datasets`

Files may be URLs (s3://…): they are streamed, and what breaks off is asked for again. Text containers may be compressed
(.gz, .zst). What JSON has no value for is written as text: times in ISO format, bytes
in base64, decimals as they print; numbers that are not finite become null.
"""

import base64
import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tamis.data.lines import BadRow, Line, json_rows
from tamis.errors import InputError
from tamis.remote import Place, is_url, locate

HUB = "hf://"
TEXT_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")
READ = (
    "read are .jsonl, .json (one object a line, or an array), .csv and .tsv with a header, each also as .gz or .zst; "
    ".parquet; folders of datasets.save_to_disk; hf://NAME"
)

_LFS, _GZIP, _ZSTD = b"version https://git-lfs.github.com/spec/", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BATCH_ROWS = 1000


def open_rows(path: str) -> Iterator[tuple[int, Line]]:
    """(row number, the row as a line of JSON, or why there is none), streamed. See the module's page.

    A compressed stream that is damaged ends in one BadRow; the rows before it stand. InputError for a container that
    is not read, is not what its name says, or is not there.
    """
    number = 0
    try:
        for number, line in _rows(path):
            yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield number + 1, _damaged(error)
    except OSError as error:
        if error.errno is not None:  # Arrow's errors about a stream have none
            raise
        yield number + 1, _damaged(error)


def _damaged(error: Exception) -> BadRow:
    return BadRow(f"the compressed stream is damaged here ({error}); the rows before are kept: fetch the file again")


def stem(path: str) -> str:
    """The name of a file without folder and suffixes that are known: what `source` is where the data has none."""
    name = Path(path.removeprefix(HUB).partition("?")[0] if path.startswith(HUB) else path).name
    for suffix in (".gz", ".zst", *TEXT_SUFFIXES, ".parquet"):
        name = name.removesuffix(suffix)
    return name


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_read(path: Place) -> bool:
    """Whether the name is that of a container that is read."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return name.endswith(TEXT_SUFFIXES) or path.name.endswith(".parquet")


def _rows(path: str) -> Iterator[tuple[int, Line]]:
    if path.startswith(HUB) or (not is_url(path) and Path(path).is_dir()):
        return enumerate(_arrow_lines(_dataset(path)), 1)
    name = Path(path).name
    if not is_read(Path(path)):
        raise InputError(f"{path}: found {''.join(Path(name).suffixes[-2:]) or 'no file extension'}: {READ}")
    if name.endswith(".parquet"):
        return enumerate(_arrow_lines(_parquet(path)), 1)
    return _text_rows(path, name.removesuffix(".gz").removesuffix(".zst"))


# ---- text --------------------------------------------------------------------------------------------------------


def _text_rows(path: str, name: str) -> Iterator[tuple[int, Line]]:
    with _stream(path) as file:
        if file.peek(16).startswith(_UTF16_MARKS):
            raise InputError(f"{path}: expected UTF-8, found UTF-16; convert it, for example with iconv")
        if name.endswith((".csv", ".tsv")):
            yield from _csv_rows(path, file, "\t" if name.endswith(".tsv") else ",")
        else:
            yield from json_rows(file, may_be_one_value=name.endswith(".json"))


def _stream(path: str) -> Any:
    """A binary file of the decompressed bytes that can be peeked at. InputError where the content belies the name."""
    with locate(path).open("rb") as raw:
        start = raw.read(len(_LFS))
    if start == _LFS:
        raise InputError(f"{path}: found a Git LFS pointer instead of the data; fetch it with `git lfs pull`")
    kinds = {".gz": ("gzip", _GZIP), ".zst": ("zstd", _ZSTD)}
    for suffix, (kind, magic) in kinds.items():
        if start and start.startswith(magic) != path.endswith(suffix):
            found = f"no {kind} data" if path.endswith(suffix) else f"{kind} data"
            raise InputError(f"{path}: found {found} under this name; rename it or fetch it again")
    where = locate(path)
    source = where if isinstance(where, Path) else where.open("rb")
    if path.endswith(".gz"):
        return gzip.open(source)
    if path.endswith(".zst"):
        import pyarrow as pa

        # Arrow notices a stream that ends too early; the reader of the zstandard package does not
        return io.BufferedReader(pa.input_stream(source, compression="zstd"))
    return where.open("rb")


def _csv_rows(path: str, file: Any, delimiter: str) -> Iterator[tuple[int, Line]]:
    csv.field_size_limit(2**31 - 1)  # the default cuts at 131,072 characters
    # Bytes that are not UTF-8 pass through, and are found row by row
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    records = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(records, [])
    except csv.Error as error:
        raise InputError(f"{path}: the first line is not valid CSV ({error}); write it again, with quotes") from error
    _check_header(path, header)
    number = 0
    while True:
        number += 1
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadRow(f"not valid CSV: {error} (line {records.line_num})")
            continue
        if not cells:
            yield number, b""
        elif len(cells) != len(header):
            yield number, BadRow(f"expected {len(header)} cells as in the header, found {len(cells)}")
        else:
            row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
            yield number, json.dumps(row, ensure_ascii=False).encode(errors="surrogateescape")


def _check_header(path: str, header: list[str]) -> None:
    """A header is there if all names differ and none is a number; the first may be empty (an index column)."""
    wrong = next((name for place, name in enumerate(header) if place and not name.strip()), None)
    for place, name in enumerate(header):
        if name in header[:place] or name.strip().lstrip("-").replace(".", "", 1).isdigit():
            wrong = name
    if wrong is not None:
        shown = ", ".join(repr(name[:30]) for name in header[:6])
        raise InputError(
            f"{path}: expected a header, found {wrong[:30]!r} among the names in its first line ({shown}): "
            "write the names of the columns, each once, into a first line"
        )


# ---- Arrow -------------------------------------------------------------------------------------------------------


def _parquet(path: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = locate(path)
    with where.open("rb") as raw:
        start = raw.read(len(_LFS))
    if start == _LFS:
        raise InputError(f"{path}: found a Git LFS pointer instead of the data; fetch it with `git lfs pull`")
    if not start:
        return
    try:
        with pq.ParquetFile(where if isinstance(where, Path) else where.raw()) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole Parquet file ({said[:200]}); fetch it again") from error


def _dataset(path: str) -> Iterator[Any]:
    import datasets

    name, _, query = path.removeprefix(HUB).partition("?") if path.startswith(HUB) else (path, "", "")
    asked = dict(parse_qsl(query))
    if odd := sorted(asked.keys() - {"config", "split", "revision"}):
        raise InputError(f"{path}: expected config, split or revision after the question mark, found {odd[0]!r}")
    datasets.disable_progress_bars()
    try:
        if is_saved(Path(name)):
            data = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, asked.get("config"), revision=asked.get("revision"))
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: expected a folder of datasets.save_to_disk, a folder of data files or a name on the hub; "
            f"datasets said: {said[:300]}"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        data = data[_split(path, name, asked.get("split"), list(data))]
    elif asked.get("split") not in (None, str(data.split)):
        raise InputError(f"{path}: found one split, {data.split}; leave out split={asked['split']}")
    return iter(data.with_format("arrow").iter(batch_size=_BATCH_ROWS))


def _split(path: str, name: str, asked: str | None, found: list[str]) -> str:
    wanted = asked or ("train" if "train" in found else found[0] if len(found) == 1 else None)
    if wanted not in found:
        what = f"no split {asked!r}" if asked else "several splits and none called train"
        raise InputError(f"{path}: found {what}, but {', '.join(found)}: say {HUB}{name}?split={found[0]}")
    return wanted


def _arrow_lines(batches: Iterable[Any]) -> Iterator[Line]:
    for batch in batches:
        for row in _records(batch):
            if isinstance(row, BadRow):
                yield row
            else:
                yield json.dumps(_finite(row), ensure_ascii=False, default=_text).encode(errors="replace")


def _records(batch: Any) -> Iterator[dict[str, Any] | BadRow]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # a writer may put any bytes into a column of strings
        for start in range(batch.num_rows):
            try:
                yield from batch.slice(start, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield BadRow(f"not UTF-8: byte 0x{error.object[error.start]:02x} in a column of strings")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
