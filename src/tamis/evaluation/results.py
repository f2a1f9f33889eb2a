"""What an evaluation found out, row by row, and the folder it is saved as."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tamis.data.example import Example
from tamis.data.pool import Pool

Reasons = list[str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Results in the order of the rows; NaN and None where a row has none, with the reason beside it.

    task                      what scores are by; loss: there are none
    target, test              the rows; target may be none
    target_losses test_losses mean cross-entropy (nats a token) of the supervised tokens
    scores                    0 to 1
    outputs, references       what the model wrote or chose, and the right answers as they were compared (code: tests)
    cut                       whether max_new_tokens ended what the model wrote
    *_reasons                 why a row has no loss, or no score; of code also why it failed
    """

    task: str
    target: Pool | None
    test: Pool
    target_losses: Float[np.ndarray, " target"]
    test_losses: Float[np.ndarray, " test"]
    scores: Float[np.ndarray, " test"]
    outputs: list[str | None]
    references: list[tuple[str, ...]]
    cut: list[bool]
    target_reasons: Reasons
    test_reasons: Reasons
    score_reasons: Reasons

    def means(self) -> dict[str, dict[str, Any]]:
        """Of each of target_loss, test_loss and the task: mean, 95% interval over rows, rows counted and skipped."""
        values = {"target_loss": self.target_losses, "test_loss": self.test_losses, self.task: self.scores}
        return {name: _interval(array) for name, array in values.items() if len(array) and name != "loss"}

    def records(self) -> Iterator[dict[str, Any]]:
        """One a row, those of the target first."""
        for i, example in enumerate(self.target or ()):
            yield _record("target", example, self.target_losses[i], self.target_reasons[i])
        for i, example in enumerate(self.test):
            record = _record("test", example, self.test_losses[i], self.test_reasons[i])
            if self.task != "loss":
                record |= {
                    "score": _number(self.scores[i]),
                    "output": self.outputs[i],
                    "cut": self.cut[i],
                    "reference": list(self.references[i]),
                    "reason": self.score_reasons[i],
                }
            yield record


def save(folder: Path, evaluation: Evaluation | None, manifest: dict[str, Any]) -> None:
    """Write examples.jsonl (see `Evaluation.records`), where there are results, and manifest.json into a folder."""
    if evaluation is not None:
        manifest = {**manifest, "task": evaluation.task, "means": evaluation.means()}
        with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in evaluation.records())
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _interval(values: Float[np.ndarray, " example"]) -> dict[str, Any]:
    """Student's t over rows; Wilson's where each is 0 or 1, which holds for few rows and for shares near 0 and 1."""
    from scipy.stats import binomtest

    from tamis.statistics import CONFIDENCE, mean_interval

    interval = mean_interval(values)
    low, high = interval.low, interval.high
    if interval.n and np.isin(values[~np.isnan(values)], (0, 1)).all():
        wilson = binomtest(round(interval.mean * interval.n), interval.n).proportion_ci(CONFIDENCE, "wilson")
        low, high = wilson.low, wilson.high
    numbers = {"mean": _number(interval.mean), "low": _number(low), "high": _number(high)}
    return {**numbers, "n_rows": interval.n, "n_skipped": len(values) - interval.n}


def _record(name: str, example: Example, loss: float, reason: str | None) -> dict[str, Any]:
    origin = {"set": name, "id": example.id, "row_id": example.row_id, "file": example.file, "row": example.row}
    group = {"source": example.source, "group": example.group}
    return {**origin, **group, "loss": _number(loss), "loss_reason": reason}


def _number(value: float) -> float | None:
    """As JSON has it, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
