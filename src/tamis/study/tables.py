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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tamis.errors import InputError
from tamis.remote import Place
from tamis.store.files import put
from tamis.study.typed import COUNT, NUMBER, TEXT, Rows, frame, read_csv, read_json, read_parquet

BUDGET, QUANTILE = "budget", "quantile"
ZERO_SHOT, RANDOM, BALANCED, LENGTH_MATCHED, FULL_POOL = (
    "zero-shot", "random", "random balanced", "random length-matched", "full pool",
)  # fmt: skip
BASELINES = (ZERO_SHOT, RANDOM, BALANCED, LENGTH_MATCHED, FULL_POOL)
STAGES = ("warm up", "represent", "score", "pick", "fine-tune", "evaluate")

RESULT_COLUMNS = {
    "experiment": TEXT,
    "target": TEXT,
    "model": TEXT,
    "method": TEXT,
    "budget": TEXT,  # as given: 5%, 500, 20000tok; empty for zero-shot, 100% for the full pool
    "representation": TEXT,  # quantile: what distance was measured in
    "bin": COUNT,
    "seed": COUNT,
    "n_examples": COUNT,
    "n_tokens": COUNT,  # supervised tokens of one epoch
    "n_steps": COUNT,
    "target_loss": NUMBER,
    "test_loss": NUMBER,
    "metric": TEXT,
    "score": NUMBER,
    "mean_nearest": NUMBER,
    "wasserstein": NUMBER,
    "objective": NUMBER,
}
EXAMPLE_COLUMNS = {
    "experiment": TEXT,
    "target": TEXT,
    "model": TEXT,
    "method": TEXT,
    "budget": TEXT,
    "bin": COUNT,
    "seed": COUNT,
    "id": TEXT,
    "loss": NUMBER,
    "score": NUMBER,
}
COST_COLUMNS = {
    "model": TEXT,
    "target": TEXT,
    "method": TEXT,
    "stage": TEXT,
    "seconds": NUMBER,
    "flops": NUMBER,
    "bytes": NUMBER,
}
COMPOSITION_COLUMNS = {
    "target": TEXT,
    "model": TEXT,
    "method": TEXT,
    "budget": TEXT,
    "seed": COUNT,
    "source": TEXT,
    "n_picked": NUMBER,
    "n_pool": NUMBER,
}
SHOWN_KEYS = ("target", "model", "method", "rank", "score", "source", "picked", "nearest", "similarity")


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


def is_study(folder: Place) -> bool:
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
    manifest, shown = read_json(folder / "study.json", dict), read_json(folder / "shown.json", list)
    for place, one in enumerate(shown):
        if not isinstance(one, dict) or set(SHOWN_KEYS) - set(one):
            raise InputError(
                f"{folder / 'shown.json'}: expected entries with {', '.join(SHOWN_KEYS)}, not so entry {place}"
            )
    return Results(
        results=read_csv(folder / "results.csv", RESULT_COLUMNS),
        examples=read_parquet(folder / "examples.parquet", EXAMPLE_COLUMNS),
        costs=read_csv(folder / "costs.csv", COST_COLUMNS),
        composition=read_csv(folder / "composition.csv", COMPOSITION_COLUMNS),
        shown=shown,
        manifest=manifest,
    )
