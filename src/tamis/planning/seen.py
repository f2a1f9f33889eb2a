"""What a plan looks at before it measures anything: rows, tokens, the model's shape."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from tamis.config import Config
from tamis.data.pool import Pool
from tamis.data.selection import check_free
from tamis.engine.local import LocalEngine
from tamis.errors import InputError
from tamis.inputs import Inputs
from tamis.methods import REPRESENTATIONS, SELECTORS
from tamis.model.checkpoint import Checkpoint
from tamis.model.load import resolve_device, resolve_dtype
from tamis.pipeline import Pipeline
from tamis.planning import memory
from tamis.planning.flops import Shape, shape_of
from tamis.planning.limits import check_weights
from tamis.planning.rows import Lengths, lengths_of
from tamis.progress import Progress, Silent
from tamis.remote import locate
from tamis.representations.compute import Recipe
from tamis.representing import read_item
from tamis.selectors import parse_budget
from tamis.warming import adapter

What = Literal["pool", "target"]
WITHOUT_MODEL = ("embed", "ngrams")  # representations whose rows a language model has no part in


@dataclass(frozen=True)
class Seen:
    """The run that is planned, and what is known of it.

    makes          what the representation tells of a row; None for a method without one
    read_seconds   of reading pool and target, filters, and tokens that are kept
    weights_bytes  of the model as it is held
    """

    run: Pipeline
    makes: Literal["rows", "scores", "ranking"] | None
    pool: Pool
    target: Pool
    lengths: dict[str, Lengths]
    read_seconds: float
    shape: Shape | None
    weights_bytes: int
    device: torch.device | None
    n_workers: int

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.run.config

    @property
    def keeps_rows(self) -> bool:
        """Whether there are stores: of feature rows, or of one number a row."""
        return self.makes in ("rows", "ranking")

    @property
    def n_usable(self) -> int:
        """Candidates that will have what the method looks at."""
        return max(1, len(self.pool) - (self.lengths["pool"].n_skipped if self.keeps_rows else 0))

    def recipes(self, what: What, checkpoints: list[Checkpoint]) -> Sequence[Recipe]:
        """Those of the features of the pool or the target; of gradients one a checkpoint. None without stores."""
        if not self.keeps_rows or (what == "target" and (self.makes == "ranking" or not len(self.target))):
            return []
        return recipes_of(self.run, what, checkpoints)


def recipes_of(
    run: Pipeline, what: What, checkpoints: list[Checkpoint], representation: str | None = None
) -> Sequence[Recipe]:
    """The recipes by which a run makes rows at these checkpoints."""
    representing = replace(run.representing, checkpoints=lambda: checkpoints)
    name = representation or str(run.method.representation)
    return representing.recipes(name, what, [run.config.represent.projection_seed])


def look(config: Config, progress: Progress | None, probe_seconds: float) -> Seen:
    """Read pool and target as the run does, and count their tokens, or those of a sample.

    InputError for what cannot be read or used; ModelError for a model whose configuration or tokenizer cannot be.
    """
    start = time.perf_counter()
    progress = progress or Silent()
    run = Pipeline(config, None, LocalEngine(), Inputs(config, progress.note))
    run.progress = progress  # only now: settings without effect were named when the settings were read
    name, selector = run.method.representation, SELECTORS[run.method.selector]
    makes = None if name is None or config.pick.similarity is not None else REPRESENTATIONS[name].makes
    if config.out is not None:
        check_free(locate(config.out))
    parse_budget(config.pick.budget)
    if makes in ("rows", "ranking") and name not in WITHOUT_MODEL:
        _ = run.inputs.source  # without a model: an error, before anything is read
    pool = run.candidates
    needs_target = makes in ("rows", "scores") and "similarity" in selector.needs
    target = run.inputs.target if run.inputs.has_target or needs_target else Pool.of([])
    if config.model.name is not None:
        _ = run.inputs.chat, run.inputs.base_digest
    run.progress.note(f"plan: counting tokens, then a probe of up to {probe_seconds:g} s")
    seconds = time.perf_counter() - start
    shape, weights, device = _model(run)
    reader = _reader(run)
    lengths = {"pool": _lengths(pool, reader, config.seed), "target": _lengths(target, reader, config.seed)}
    counted = lengths["pool"]
    if makes in ("rows", "ranking"):
        seconds += min(counted.n_rows, memory.KEPT_ROWS) * counted.seconds_a_row
        if counted.items and not counted.usable:
            raise InputError(f"no usable pool row; the first: {counted.reasons[0]}")
    n_workers = _n_workers(config)
    return Seen(run, makes, pool, target, lengths, seconds, shape, weights, device, n_workers)


def _lengths(examples: Pool, reader: Callable[[Any], Any] | None, seed: int) -> Lengths:
    if reader is None:
        return Lengths(len(examples), np.empty(0, np.int64), [], 0.0)
    return lengths_of(examples, reader, seed)


def _reader(run: Pipeline) -> Callable[[Any], Any] | None:
    """What gives an example's tokens or words; None where nothing counts any."""
    name = run.method.representation
    if name not in WITHOUT_MODEL and run.config.model.name is None:
        return None
    # Whatever a model makes of them, its tokens are the same
    recipe = recipes_of(run, "pool", [], name if name in WITHOUT_MODEL else "rds")[0]
    return lambda example: read_item(recipe, run.inputs, example)


def _model(run: Pipeline) -> tuple[Shape | None, int, torch.device | None]:
    """The shape of the model that makes the rows, known without its weights, which must fit before they are loaded."""
    name, config = run.method.representation, run.config
    if name is None or config.pick.similarity is not None or REPRESENTATIONS[name].makes == "scores":
        return None, 0, None
    device = memory.gpu(config.model.device)
    if name in WITHOUT_MODEL:
        return None, 0, device
    source = run.inputs.source
    lora = adapter(config.warmup) if name == "gradient" else None
    shape = shape_of(source, lora)
    is_full = name == "gradient" and lora is None
    dtype = resolve_dtype("float32" if is_full else source.dtype, resolve_device(source.device))
    n_bytes = memory.weights_bytes(shape.n_weights, dtype, source.quantization)
    check_weights(config, n_bytes * (4 if is_full else 1), device)  # full: gradients and two moments beside
    return shape, n_bytes, device


def _n_workers(config: Config) -> int:
    """Processes that share the work; where the settings do not say, one a GPU of this host, or a CPU."""
    if not config.engine.is_ray:
        return 1
    if config.engine.pool_size is not None:
        return config.engine.pool_size[1]
    import os

    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // (config.engine.threads_per_worker or 1))
