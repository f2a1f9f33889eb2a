"""A study's cells: a model trained on one training set with one seed, and tested on the rows of one target.

Each is kept in the workspace under a digest of all that it depends on: weights before training, settings, rows in
their order, the rows it is tested on and how. A killed study goes on from the last finished cell, and cells of another
study that are the same are found. Several processes may work at one study: each takes what none is at work on.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from filelock import Timeout
from torch import nn

from tamis.data.pool import Pool
from tamis.engine import Engine
from tamis.errors import ModelError, TamisError
from tamis.evaluating import Evaluation, evaluate
from tamis.finetuning import Training
from tamis.inputs import Inputs, digest
from tamis.model.load import load_base
from tamis.progress import Progress, Told
from tamis.remote import Place
from tamis.remote.lease import lock
from tamis.settings import EvaluateConfig
from tamis.store.records import read_record, write_record
from tamis.study.selecting import Chosen

_BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Testing:
    """What models are tested on for one target."""

    __test__ = False  # no test of pytest's

    target: str
    query: Pool
    test: Pool
    config: EvaluateConfig

    def digest(self) -> str:
        """Of all that the results of a given model depend on."""
        if self.config.task == "loss":  # which looks at the conversations alone
            return digest("loss", self.query.digest, self.test.digest)
        settings = self.config.model_dump(exclude={"batch_tokens", "limit", "run_code"})
        answers = [example.line_digest for example in self.test]  # fields beside the conversation may hold them
        return digest(settings, self.query.digest, self.test.digest, answers)


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One training set with one seed, for one model and target. `training` is None where there is none: zero-shot."""

    experiment: str
    model: str
    chosen: Chosen
    seed: int
    testing: Testing
    learner: Inputs
    training: Training | None

    @property
    def trained(self) -> str:
        """Digest of the weights that are tested."""
        if self.training is not None:
            return self.training.digest()
        return digest("as it is", self.learner.base_digest, self.learner.chat.fingerprint, self.learner.dtype)

    @property
    def name(self) -> str:
        """Digest of the cell; answers are drawn by its seed."""
        sampled = self.testing.config.task != "loss" and self.testing.config.temperature > 0
        return digest(self.trained, self.testing.digest(), self.seed if sampled else None)


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell found out: losses and scores by row, None where a row has none; seconds of training and testing."""

    query_losses: list[float | None]
    test_losses: list[float | None]
    scores: list[float | None]
    outputs: list[str | None]
    n_steps: int
    train_seconds: float
    evaluate_seconds: float


def run_cells(cells: Sequence[Cell], folder: Place, progress: Progress, engine: Engine) -> list[str]:
    """Every cell's result into `folder`, those already there passed over; one training for all targets it is tested on.

    Where another process is at work on a training, others come first, and it is waited for at the end. A training that
    fails does not keep the others from theirs: a sentence about each is returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = _by_training(cells, folder)
    n_todo, n_cells = sum(map(len, waiting)), len({cell.name for cell in cells})
    progress.note(f"cells: {n_cells - n_todo:,} found, {n_todo:,} to compute in {len(waiting):,} trainings")
    failed: list[str] = []
    if not waiting:
        return failed
    with progress.stage("fine-tune and test", sum(map(_n_tokens, waiting))) as advance:
        for seconds in (0.0, -1.0):  # to wait for another process; -1: as long as it takes
            make = partial(_worker, folder, seconds)
            said = list(engine.run(make, waiting, Told(advance, progress.note)))
            failed += [text for text in said if text not in (None, _BUSY)]
            waiting = [group for group, text in zip(waiting, said, strict=True) if text == _BUSY]
    return failed


def _worker(folder: Place, lock_seconds: float) -> Callable[[list[Cell], Told], str | None]:
    """What computes the cells of one training; says where it failed, or that another process is at work on it."""

    def work(group: list[Cell], told: Told) -> str | None:
        try:
            with lock(folder / f"{group[0].trained}.lock", lock_seconds):
                _run_group(group, folder, told)
        except Timeout:
            return _BUSY
        except TamisError as error:
            chosen = group[0].chosen
            place = f" bin {chosen.bin}" if chosen.bin is not None else f" {chosen.budget}" if chosen.budget else ""
            said = f"{chosen.method}{place}, seed {group[0].seed}, {group[0].model}: {error}"
            told.note(said)
            return said
        return None

    return work


def _by_training(cells: Iterable[Cell], folder: Place) -> list[list[Cell]]:
    groups: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if not _path(folder, cell).exists():
            groups.setdefault(cell.trained, {}).setdefault(cell.name, cell)
    return [list(group.values()) for group in groups.values()]


def _n_tokens(group: Sequence[Cell]) -> int:
    return group[0].training.n_tokens if group[0].training else 1


def _run_group(group: Sequence[Cell], folder: Place, told: Told) -> None:
    left = [cell for cell in group if not _path(folder, cell).exists()]
    if not left:  # another process was faster
        told.advance(_n_tokens(group))
        return
    start = time.perf_counter()
    model = _model(left[0], told)
    train_seconds, start = time.perf_counter() - start, time.perf_counter()
    for cell in left:
        found = evaluate(model, cell.learner, cell.testing.query, cell.testing.test, cell.testing.config, cell.seed)
        seconds, start = time.perf_counter() - start, time.perf_counter()
        steps = cell.training.extent[1] if cell.training else 0
        result = _result(found, steps, train_seconds, seconds)
        write_record(_path(folder, cell), {name: getattr(result, name) for name in Result.__slots__})


def _model(cell: Cell, told: Told) -> nn.Module:
    if cell.training is None:
        return load_base(cell.learner.source)
    with TemporaryDirectory(prefix="tamis-") as scratch:
        return cell.training.run(Path(scratch), told.advance, told.note)


def _result(found: Evaluation, n_steps: int, train_seconds: float, evaluate_seconds: float) -> Result:
    reasons = [reason for reason in (*found.target_reasons, *found.test_reasons) if reason]
    if diverged := [reason for reason in reasons if reason.startswith("the loss is")]:  # as inf or nan
        raise ModelError(
            f"{diverged[0]} on {len(diverged):,} rows: the training diverged; lower finetune.learning_rate"
        )
    return Result(
        query_losses=_plain(found.target_losses),
        test_losses=_plain(found.test_losses),
        scores=_plain(found.scores) if found.task != "loss" else [],
        outputs=list(found.outputs) if found.task != "loss" else [],
        n_steps=n_steps,
        train_seconds=train_seconds,
        evaluate_seconds=evaluate_seconds,
    )


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in map(float, values)]


def _path(folder: Place, cell: Cell) -> Place:
    return folder / f"{cell.name}.json"


def read_result(cell: Cell, folder: Place) -> Result | None:
    """The result of a cell, where it is there. DamagedError unless it is as it was written."""
    path = _path(folder, cell)
    return Result(**read_record(path)) if path.exists() else None


def results(cells: Sequence[Cell], folder: Place) -> Iterator[tuple[Cell, Result]]:
    """Cells that have a result, each with it."""
    for cell in cells:
        if (found := read_result(cell, folder)) is not None:
            yield cell, found
