"""What a study measured, as tables, and the folder they are kept in: what the engine writes and the report reads.

    results.csv         one row a cell: `RESULT_COLUMNS`
    examples.parquet    losses of single test examples: `EXAMPLE_COLUMNS`
    costs.csv           seconds, FLOPs and bytes by stage: `COST_COLUMNS`; an empty target: shared by all targets
    composition.csv     sources of the picks and of the pool: `COMPOSITION_COLUMNS`
    shown.json          picked examples beside their nearest target: `SHOWN_KEYS`
    study.json          manifest: title, settings (as text), versions, n_pending (cells not yet run)

Only results.csv and study.json must be there. In a CSV an empty cell is what is not known.

Experiments: `budget` (methods at budgets) and `quantile` (bins of the pool by distance; bin 0 is nearest); where there
are several of a kind, kind:name. Losses are means of the per-example losses over the query set ("dev") and over the
test set; scores are between 0 and 1, higher is better. Distances are of the picked subset to the target: mean nearest
and Wasserstein in one space for all methods of a target and model (in quantile rows that of the representation), the
objective what a method itself makes small, in its own representation.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tamis.errors import InputError
from tamis.store.files import put

BUDGET, QUANTILE = "budget", "quantile"
ZERO_SHOT, RANDOM, BALANCED, LENGTH_MATCHED, FULL_POOL = (
    "zero-shot", "random", "random balanced", "random length-matched", "full pool",
)  # fmt: skip
BASELINES = (ZERO_SHOT, RANDOM, BALANCED, LENGTH_MATCHED, FULL_POOL)
STAGES = ("warm up", "represent", "score", "pick", "fine-tune", "evaluate")

_TEXT, _COUNT, _NUMBER = "str", "Int64", "float64"
RESULT_COLUMNS = {
    "experiment": _TEXT,
    "target": _TEXT,
    "model": _TEXT,
    "method": _TEXT,
    "budget": _TEXT,  # as given: 5%, 500, 20000tok; empty for zero-shot, 100% for the full pool
    "representation": _TEXT,  # quantile: what distance was measured in
    "bin": _COUNT,
    "seed": _COUNT,
    "n_examples": _COUNT,
    "n_tokens": _COUNT,  # supervised tokens of one epoch
    "n_steps": _COUNT,
    "target_loss": _NUMBER,
    "test_loss": _NUMBER,
    "metric": _TEXT,
    "score": _NUMBER,
    "mean_nearest": _NUMBER,
    "wasserstein": _NUMBER,
    "objective": _NUMBER,
}
EXAMPLE_COLUMNS = {
    "experiment": _TEXT,
    "target": _TEXT,
    "model": _TEXT,
    "method": _TEXT,
    "budget": _TEXT,
    "bin": _COUNT,
    "seed": _COUNT,
    "id": _TEXT,
    "loss": _NUMBER,
    "score": _NUMBER,
}
COST_COLUMNS = {
    "model": _TEXT,
    "target": _TEXT,
    "method": _TEXT,
    "stage": _TEXT,
    "seconds": _NUMBER,
    "flops": _NUMBER,
    "bytes": _NUMBER,
}
COMPOSITION_COLUMNS = {
    "target": _TEXT,
    "model": _TEXT,
    "method": _TEXT,
    "budget": _TEXT,
    "seed": _COUNT,
    "source": _TEXT,
    "n_picked": _NUMBER,
    "n_pool": _NUMBER,
}
SHOWN_KEYS = ("target", "model", "method", "rank", "score", "source", "picked", "nearest", "similarity")
Rows = Iterable[Mapping[str, Any]]


def frame(rows: Rows, columns: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a table with these columns and types; what a row lacks is not known. ValueError for an unknown column."""
    rows = list(rows)
    if unknown := {name for row in rows for name in row} - set(columns):
        raise ValueError(f"expected columns among {', '.join(columns)}, got {', '.join(sorted(unknown))}")
    made = {}
    for name, of in columns.items():
        values = [row.get(name) for row in rows]
        made[name] = _series(["" if of == _TEXT and value is None else value for value in values], of)
    return pd.DataFrame(made, columns=list(columns))


@dataclass(frozen=True, slots=True)
class Results:
    """A study's tables; see the module. `manifest` may hold title, settings, versions and n_pending."""

    results: pd.DataFrame
    examples: pd.DataFrame = field(default_factory=lambda: frame([], EXAMPLE_COLUMNS))
    costs: pd.DataFrame = field(default_factory=lambda: frame([], COST_COLUMNS))
    composition: pd.DataFrame = field(default_factory=lambda: frame([], COMPOSITION_COLUMNS))
    shown: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls,
        results: Rows,
        examples: Rows = (),
        costs: Rows = (),
        composition: Rows = (),
        shown: Iterable[dict[str, Any]] = (),
        manifest: Mapping[str, Any] | None = None,
    ) -> "Results":
        """From plain rows; a number that is None is not known."""
        return cls(
            frame(results, RESULT_COLUMNS),
            frame(examples, EXAMPLE_COLUMNS),
            frame(costs, COST_COLUMNS),
            frame(composition, COMPOSITION_COLUMNS),
            list(shown),
            dict(manifest or {}),
        )


def kind(experiment: str) -> str:
    """`budget` or `quantile`, of an experiment's name."""
    return experiment.partition(":")[0]


# ---- a study's folder ----------------------------------------------------------------------------------------------


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study's tables."""
    return (folder / "results.csv").is_file() and (folder / "study.json").is_file()


def write(folder: Path, results: Results) -> None:
    """Write every table; each file appears whole. study.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("results", results.results), ("costs", results.costs), ("composition", results.composition)):
        put(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    out = io.BytesIO()
    results.examples.to_parquet(out, index=False)
    put(folder / "examples.parquet", out.getvalue())
    for name, value in (("shown", results.shown), ("study", results.manifest)):
        put(folder / f"{name}.json", (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read(folder: Path) -> Results:
    """The tables of a study's folder. InputError for a file not as `write` leaves it, naming file and columns."""
    if not is_study(folder):
        raise InputError(f"{folder}: expected the folder of a study, found no results.csv and study.json in it")
    manifest, shown = _json(folder / "study.json", dict), _json(folder / "shown.json", list)
    for place, one in enumerate(shown):
        if not isinstance(one, dict) or set(SHOWN_KEYS) - set(one):
            raise InputError(
                f"{folder / 'shown.json'}: expected entries with {', '.join(SHOWN_KEYS)}, not so entry {place}"
            )
    return Results(
        results=read_csv(folder / "results.csv", RESULT_COLUMNS),
        examples=_parquet(folder / "examples.parquet", EXAMPLE_COLUMNS),
        costs=read_csv(folder / "costs.csv", COST_COLUMNS),
        composition=read_csv(folder / "composition.csv", COMPOSITION_COLUMNS),
        shown=shown,
        manifest=manifest,
    )


def read_csv(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV with exactly these columns, in any order; without the file a table without rows."""
    if not path.exists():
        return frame([], columns)
    text = text_table(path)
    _check_columns(path, list(text.columns), columns)
    made = {}
    for name, of in columns.items():
        made[name] = text[name].astype(object) if of == _TEXT else numbers(path, name, text[name], of)
    return pd.DataFrame(made, columns=list(columns))


def text_table(path: Path) -> pd.DataFrame:
    """A CSV with every cell as text. InputError where it is none."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({str(error).strip()})") from error


def numbers(path: Path, name: str, text: "pd.Series[Any]", of: str = _NUMBER) -> "pd.Series[Any]":
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
    if of == _TEXT:
        return pd.Series([str(value) for value in values], dtype=object)
    if of == _COUNT:
        return pd.Series([None if value is None else int(value) for value in values], dtype="Int64")
    return pd.Series([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _number(cell: str, of: str) -> float:
    value = float(cell)
    if not math.isfinite(value) or (of == _COUNT and value != int(value)):
        raise ValueError(cell)
    return value


def _check_columns(path: Path, found: list[str], columns: Mapping[str, str]) -> None:
    if set(found) != set(columns):
        raise InputError(f"{path}: expected the columns {', '.join(columns)}, found {', '.join(found)}")


def _parquet(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    if not path.exists():
        return frame([], columns)
    try:
        table = pd.read_parquet(path)
        _check_columns(path, list(table.columns), columns)
        return table[list(columns)].astype({name: object if of == _TEXT else of for name, of in columns.items()})
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a table of losses ({error})") from error


def _json(path: Path, of: type) -> Any:
    if not path.exists():
        return of()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, of):
        raise InputError(f"{path}: expected a JSON {'object' if of is dict else 'array'}, found something else")
    return value
