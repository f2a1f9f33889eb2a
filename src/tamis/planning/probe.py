"""Short runs of the code that a run spends its time in, on some of its own rows: seconds, and the peak of memory."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis.config import Config
from tamis.errors import InputError
from tamis.inputs import Inputs
from tamis.model.batch import is_out_of_memory
from tamis.model.checkpoint import Checkpoint, TrainSettings, save_untrained
from tamis.model.load import fresh_model
from tamis.model.train import Course, train
from tamis.planning.rows import load_of
from tamis.representations.compute import BatchRows, Recipe, unit_rows
from tamis.representations.gradient import check_layers
from tamis.settings import RepresentConfig
from tamis.store import FeatureStore
from tamis.warming import adapter, hyperparameters

_MOST_CELLS = 1 << 26  # numbers of features that are made up: 256 MB
_FEWEST, _PATIENCE = 4, 1.5  # so many steps, or batches, are timed, if that takes no longer than this × the seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast some work goes: seconds once, and for each padded token; measured on so many.

    wall, cpu   seconds of this measurement, and those of them that this process computed, on any core
    """

    once: float
    a_token: float
    n_tokens: int
    wall: float = 0.0
    cpu: float = 0.0

    def seconds(self, n_padded: float) -> float:
        """Of work on so many padded tokens."""
        return self.once + self.a_token * n_padded


class _EnoughError(Exception):
    """Ends a training that is a probe."""


def probe_warm_up(
    config: Config, inputs: Inputs, items: Sequence[Any], folder: Path, seconds: float
) -> tuple[Pace, float, Checkpoint]:
    """Some steps of the warm-up, on a model in memory: the pace, the seconds of saving an epoch, and a checkpoint.

    The first micro-batch has the longest rows, so that the peak of memory is there; it is not timed. Where a step takes
    long, steps of fewer rows are taken, so what an optimizer's step costs counts too often rather than too seldom.
    """
    warmup, began = config.warmup, time.perf_counter()
    settings = replace(hyperparameters(warmup, config.seed), epochs=1)
    model = fresh_model(inputs.source, adapter(warmup), config.seed)
    check_layers(model)
    loading = time.perf_counter() - began
    micro = min(warmup.micro_batch_size, warmup.batch_size)
    longest = sorted(items, key=lambda item: -item.n_tokens)[:micro]
    start = time.perf_counter()
    train(model, longest, replace(settings, batch_size=micro, micro_batch_size=micro), folder / "first")
    slow = time.perf_counter() - start
    left = seconds - (time.perf_counter() - began)
    n_micro = max(1, min(warmup.batch_size // micro, int(left / slow / _FEWEST)))
    order = np.random.default_rng(config.seed).permutation(len(items))
    rows = [items[i] for i in order]
    settings = replace(settings, batch_size=micro * n_micro, micro_batch_size=micro)
    pace = _steps(model, rows, settings, folder, max(left, seconds / 2))
    start = time.perf_counter()
    made = save_untrained(
        folder / "epoch-0", model.eval(), mean_learning_rate=warmup.learning_rate, base_digest=inputs.base_digest
    )
    saving = 2 * (time.perf_counter() - start)  # Trainer's own comes beside it
    return replace(pace, once=pace.once + loading), saving, made


def probe_untrained(config: Config, inputs: Inputs, folder: Path) -> tuple[Pace, float, Checkpoint]:
    """The same of a warm-up without epochs, which saves the model as it is."""
    warmup, start = config.warmup, time.perf_counter()
    model = fresh_model(inputs.source, adapter(warmup), config.seed)
    check_layers(model)
    loaded = time.perf_counter()
    rate, digest = warmup.learning_rate, inputs.base_digest
    made = save_untrained(folder / "epoch-0", model, mean_learning_rate=rate, base_digest=digest)
    return Pace(loaded - start, 0.0, 0), time.perf_counter() - loaded, made


def _steps(model: Any, rows: Sequence[Any], settings: TrainSettings, folder: Path, seconds: float) -> Pace:
    """Optimizer steps on these rows in their order, until the time is up; always one at least."""
    start, cpu = time.perf_counter(), time.process_time()
    ends: list[float] = []

    def step(n_tokens: int) -> None:
        if not n_tokens:
            return  # it is told of what was done before: nothing
        ends.append(time.perf_counter() - start)
        if _is_enough(ends[-1], len(ends), seconds):
            raise _EnoughError

    with suppress(_EnoughError):
        train(model, rows, settings, folder / "steps", course=Course(shuffled=False), advance=step)
    spent = ends[-1], time.process_time() - cpu
    size, micro = settings.batch_size, settings.micro_batch_size
    batches = [rows[first : first + micro] for first in range(0, min(len(rows), size * len(ends)), micro)]
    per_step = size // micro
    first, rest = load_of(batches[:per_step]).n_padded, load_of(batches[per_step:]).n_padded
    if not rest:  # one step only
        return Pace(0.0, ends[0] / first, round(first), *spent)
    pace = (ends[-1] - ends[0]) / rest
    return Pace(max(0.0, ends[0] - pace * first), pace, round(first + rest), *spent)


def probe_features(
    recipe: Recipe, batches: Sequence[Sequence[Any]], settings: RepresentConfig, seconds: float, *, recomputed: bool
) -> Pace:
    """Rows of some batches by the recipe's own function, of all widths alike, with a shard's rows in memory besides.

    The batch with the most padded tokens and that with the most supervised ones come first, for the peak of memory.
    InputError where memory runs out.
    """
    start = time.perf_counter()
    n_numbers = recipe.dim * len(recipe.to_dicts())
    held = np.ones((min(settings.shard_rows, max(1, _MOST_CELLS // n_numbers)), n_numbers), np.float32)
    batch_rows = recipe.load(activation_checkpointing=recomputed)
    loading = time.perf_counter() - start
    loads = [load_of([batch]) for batch in batches]
    heaviest = {
        max(range(len(batches)), key=lambda i: loads[i].n_padded),
        max(range(len(batches)), key=lambda i: loads[i].n_supervised),
    }
    worst = wall = cpu = n_tokens = 0.0
    n_timed = 0
    try:
        for place in heaviest:
            worst = max(worst, _timed(batch_rows, batches[place])[0] / loads[place].n_padded)
        for place in evenly(sorted(range(len(batches)), key=lambda i: loads[i].squares / loads[i].n_padded)):
            if _is_enough(time.perf_counter() - start, n_timed, seconds):
                break
            spent, n_timed = _timed(batch_rows, batches[place]), n_timed + 1
            wall, cpu, n_tokens = wall + spent[0], cpu + spent[1], n_tokens + loads[place].n_padded
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        n_most = max(load.n_padded for load in loads)
        raise InputError(
            f"out of memory with a batch of {n_most:,.0f} tokens: expected represent.batch_tokens that fit, got "
            f"{settings.batch_tokens:,}; lower it, or {recipe.remedy}"
        ) from error
    del held
    return Pace(loading, wall / n_tokens if n_tokens else worst, round(n_tokens), wall, cpu)


def _is_enough(elapsed: float, n_timed: int, seconds: float) -> bool:
    """Whether a probe ends here: its time is up, or half as much again where too few were timed."""
    return elapsed > (seconds if n_timed >= _FEWEST else _PATIENCE * seconds)


def _timed(batch_rows: BatchRows, batch: Sequence[Any]) -> tuple[float, float]:
    """Seconds of a batch, and those of them that were computed."""
    start, cpu = time.perf_counter(), time.process_time()
    batch_rows(batch)
    return time.perf_counter() - start, time.process_time() - cpu


def evenly(values: Sequence[int]) -> list[int]:
    """The values in an order whose every beginning is spread over them: by their places' bits, the last bit first."""
    n_bits = max(1, len(values) - 1).bit_length()
    return [values[i] for i in sorted(range(len(values)), key=lambda i: f"{i:0{n_bits}b}"[::-1])]


def made_up_store(
    folder: Path, recipe: Any, ids: Sequence[str], shard_rows: int, seed: int
) -> tuple[FeatureStore, float]:
    """A store of random rows of this recipe, made as a run makes them; and the seconds that a row took."""
    store, rng = FeatureStore.open(folder, recipe), np.random.default_rng(seed)
    spent = 0.0
    for start in range(0, len(ids), shard_rows):
        mine = ids[start : start + shard_rows]
        made = rng.standard_normal((len(mine), store.dim), np.float32)
        begun = time.perf_counter()
        rows, norm = unit_rows(np.stack(list(made)))
        store.write(tuple(mine), rows, norm, np.ones(len(mine), np.int32), list(mine), {})
        spent += time.perf_counter() - begun
    return store, spent / max(1, len(ids))


def made_up_rows(n_rows: int, dim: int) -> int:
    """How many rows of this length may be made up."""
    return max(1, min(n_rows, _MOST_CELLS // dim))
