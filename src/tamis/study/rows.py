"""Lines of a study's tables from its cells."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tamis.study.cells import Cell, Result


def result_row(cell: Cell, result: Result) -> dict[str, Any]:
    """One line of results.csv."""
    chosen, training, distances = cell.chosen, cell.training, cell.chosen.distances
    task = cell.testing.config.task
    return {
        **_key(cell),
        "representation": chosen.representation,
        "n_examples": len(training.rows.examples) if training else 0,
        "n_tokens": training.rows.n_supervised if training else 0,
        "n_steps": result.n_steps,
        "target_loss": _mean(result.query_losses),
        "test_loss": _mean(result.test_losses),
        "metric": "" if task == "loss" else task,
        "score": _mean(result.scores),
        "mean_nearest": distances.mean_nearest,
        "wasserstein": distances.wasserstein,
        "objective": distances.objective,
    }


def example_rows(cell: Cell, result: Result) -> Iterator[dict[str, Any]]:
    """Lines of examples.parquet: the test rows; equal rows each count."""
    scores = result.scores or [None] * len(result.test_losses)
    for place, (example, loss, score) in enumerate(zip(cell.testing.test, result.test_losses, scores, strict=True)):
        yield {**_key(cell), "id": f"{place}:{example.row_id or example.id}", "loss": loss, "score": score}


def _key(cell: Cell) -> dict[str, Any]:
    return {
        "experiment": cell.experiment,
        "target": cell.testing.target,
        "model": cell.model,
        "method": cell.chosen.method,
        "budget": cell.chosen.budget,
        "bin": cell.chosen.bin,
        "seed": cell.seed,
    }


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
