"""Tables with columns of known types, from rows and from files; what is wrong with a file is said by file and place."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tamis.errors import InputError

TEXT, COUNT, NUMBER = "str", "Int64", "float64"
Rows = Iterable[Mapping[str, Any]]


def frame(rows: Rows, columns: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a table with these columns and types; what a row lacks is not known. ValueError for an unknown column."""
    rows = list(rows)
    if unknown := {name for row in rows for name in row} - set(columns):
        raise ValueError(f"expected columns among {', '.join(columns)}, got {', '.join(sorted(unknown))}")
    made = {}
    for name, of in columns.items():
        values = [row.get(name) for row in rows]
        made[name] = _series(["" if of == TEXT and value is None else value for value in values], of)
    return pd.DataFrame(made, columns=list(columns))


def read_csv(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV with exactly these columns, in any order; without the file a table without rows."""
    if not path.exists():
        return frame([], columns)
    text = text_table(path)
    _check_columns(path, list(text.columns), columns)
    made = {}
    for name, of in columns.items():
        made[name] = text[name].astype(object) if of == TEXT else numbers(path, name, text[name], of)
    return pd.DataFrame(made, columns=list(columns))


def text_table(path: Path) -> pd.DataFrame:
    """A CSV with every cell as text. InputError where it is none."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({str(error).strip()})") from error


def numbers(path: Path, name: str, text: "pd.Series[Any]", of: str = NUMBER) -> "pd.Series[Any]":
    """A column of text as numbers, empty cells as not known. InputError naming the first cell that is no number."""
    values = []
    for row, cell in enumerate(text, 2):  # the header is line 1
        cell = cell.strip()
        try:
            values.append(None if cell.lower() in ("", "nan") else _number(cell, of))
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path} line {row}: expected a number as {name}, found {cell!r}") from error
    return _series(values, of)


def _series(values: list[Any], of: str) -> "pd.Series[Any]":
    if of == TEXT:
        return pd.Series([str(value) for value in values], dtype=object)
    if of == COUNT:
        return pd.Series([None if value is None else int(value) for value in values], dtype="Int64")
    return pd.Series([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _number(cell: str, of: str) -> float:
    value = float(cell)
    if not math.isfinite(value) or (of == COUNT and value != int(value)):
        raise ValueError(cell)
    return value


def _check_columns(path: Path, found: list[str], columns: Mapping[str, str]) -> None:
    if set(found) != set(columns):
        raise InputError(f"{path}: expected the columns {', '.join(columns)}, found {', '.join(found)}")


def read_parquet(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A Parquet file with exactly these columns, in any order; without the file a table without rows."""
    if not path.exists():
        return frame([], columns)
    try:
        table = pd.read_parquet(path)
        _check_columns(path, list(table.columns), columns)
        return table[list(columns)].astype({name: object if of == TEXT else of for name, of in columns.items()})
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a table of losses ({error})") from error


def read_json(path: Path, of: type) -> Any:
    """A JSON object or array; without the file an empty one. InputError where it is neither."""
    if not path.exists():
        return of()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, of):
        raise InputError(f"{path}: expected a JSON {'object' if of is dict else 'array'}, found something else")
    return value
