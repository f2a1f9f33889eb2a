"""Represent: which recipes a method's rows are made by, and the stores that hold the rows."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Literal

import numpy as np

from tamis.config import Config
from tamis.data.example import Example
from tamis.data.pool import Pool
from tamis.engine import Engine
from tamis.errors import InputError
from tamis.ids import first_places, pack
from tamis.inputs import Inputs
from tamis.model.checkpoint import Checkpoint
from tamis.model.load import hidden_size
from tamis.progress import Advance, Current, Told
from tamis.remote import Place
from tamis.representations.compute import Item, Recipe, fill_in_turn, fill_shards
from tamis.representations.ngrams import NgramRecipe
from tamis.representations.recipes import ForwardRecipe, GradientRecipe, feature_dim
from tamis.representations.sentence import SentenceRecipe
from tamis.settings import home
from tamis.store import FeatureStore, StoredRows
from tamis.store.recipe import folder_name

What = Literal["pool", "target"]

_COUNTED_ROWS = 65_536  # whose tokens are kept once they are read
_SAMPLED_ROWS = 4096


@dataclass(frozen=True)
class Rows:
    """Feature rows in stores, one a checkpoint (or the only one), with the examples that have one."""

    stores: Sequence[FeatureStore]
    lr_weights: Sequence[float]
    examples: Pool
    normalized: bool = True

    @cached_property
    def combined(self) -> StoredRows:
        """Σ lr_weight · row over the checkpoints."""
        return StoredRows(self.stores, self.lr_weights, self.examples.packed_ids, normalized=self.normalized)

    @cached_property
    def by_checkpoint(self) -> list[StoredRows]:
        """The rows of each checkpoint."""
        ids = self.examples.packed_ids
        return [StoredRows([store], [1.0], ids, normalized=self.normalized) for store in self.stores]


@dataclass(frozen=True)
class Representing:
    """The represent stage of one run; `checkpoints` are made when gradients are first asked for."""

    config: Config
    inputs: Inputs
    workspace: Place
    engine: Engine
    checkpoints: Callable[[], list[Checkpoint]]
    stage: Callable[[str, int], AbstractContextManager[Advance]]
    note: Callable[[str], None]

    def rows(self, representation: str, examples: Pool, what: What, seeds: Sequence[int] | None = None) -> list[Rows]:
        """Rows of all these examples that can have one; one `Rows` for each projection seed, as a rule one alone."""
        stores = self.stores(representation, examples, what, seeds)
        weights = lr_weights(self.checkpoints()) if representation == "gradient" else [1.0] * len(stores[0])
        usable = self._usable(examples, [store for group in stores for store in group], what)
        return [Rows(group, weights, usable, self.config.represent.normalize) for group in stores]

    def stores(
        self, representation: str, examples: Pool, what: What, seeds: Sequence[int] | None = None
    ) -> list[list[FeatureStore]]:
        """The stores of each projection seed, one a recipe, filled with what they lack of these examples."""
        seeds = seeds or [self.config.represent.projection_seed]
        recipes = self.recipes(representation, what, seeds)
        lacking = [
            self._lacking(recipe, examples, f"{what} features {number}/{len(recipes)}")
            for number, recipe in enumerate(recipes, 1)
        ]
        if jobs := [job for _, of_recipe in lacking for job in of_recipe]:
            self._compute(jobs, examples)
        return [list(group) for group in zip(*(stores for stores, _ in lacking), strict=True)]

    def recipes(self, representation: str, what: What, seeds: Sequence[int]) -> Sequence[Recipe]:
        """What the rows of a representation are: one recipe a checkpoint, or a loss, or one alone."""
        settings, inputs = self.config.represent, self.inputs
        # Targets are few: theirs is the finer row where the pool's is quantised
        store_dtype = settings.store_dtype if what == "pool" else "float16"
        if representation == "gradient":
            return [
                GradientRecipe(
                    source=inputs.source,
                    checkpoint=checkpoint,
                    form=settings.adam if what == "pool" else "sgd",
                    kind=settings.projection,
                    dim=feature_dim(settings.projection, settings.dim, checkpoint),
                    projection_seeds=tuple(seeds),
                    template=inputs.chat.fingerprint,
                    max_tokens=inputs.max_tokens,
                    dtype=inputs.dtype,
                    store_dtype=store_dtype,
                )
                for checkpoint in self.checkpoints()
            ]
        if len(seeds) > 1:
            raise InputError(f"score.projection_seeds: {representation} has no projection, so it has no seeds to vary")
        if representation == "embed":
            return [
                SentenceRecipe.of(
                    str(home(settings.encoder)) if settings.encoder.startswith("~") else settings.encoder,
                    device=self.config.model.device,
                    trust_remote_code=self.config.model.trust_remote_code,
                    store_dtype=store_dtype,
                )
            ]
        if representation == "ngrams":
            return [NgramRecipe(settings.dim, store_dtype)]
        kinds: dict[str, tuple[Literal["rds", "loss", "loss_alone"], ...]] = {
            "rds": ("rds",),
            "loss": ("loss",),
            "perplexity": ("loss",),
            "ifd": ("loss", "loss_alone"),
        }
        return [
            ForwardRecipe(
                kind=kind,
                source=inputs.source,
                base_digest=inputs.base_digest,
                dim=hidden_size(inputs.source) if kind == "rds" else 1,
                template=inputs.chat.fingerprint,
                max_tokens=inputs.max_tokens,
                dtype=inputs.dtype,
                store_dtype=store_dtype if kind == "rds" else "float16",  # of one number there is nothing to quantise
            )
            for kind in kinds[representation]
        ]

    def _lacking(self, recipe: Recipe, examples: Pool, name: str) -> tuple[list[FeatureStore], list["_Job"]]:
        """The stores of one recipe, and what they lack of these examples: those that lack the same are one job."""
        ids, rows = examples.packed_ids, self.config.represent.shard_rows
        stores = [
            FeatureStore.open(self.workspace / "features" / folder_name(made_by), made_by)
            for made_by in recipe.to_dicts()
        ]
        todo = [store.missing(ids) for store in stores]
        n_ids = len(first_places(ids))
        alike = [next(i for i, first in enumerate(todo) if np.array_equal(first, mine)) for mine in todo]
        jobs = []
        for first in sorted(set(alike)):
            mine = [place for place, other in enumerate(alike) if other == first]
            n_todo = len(todo[first])
            self.note(f"{name}: {n_todo:,} rows to compute, {n_ids - n_todo:,} in {stores[first].folder}")
            if n_todo:
                part = recipe
                if isinstance(recipe, GradientRecipe):
                    part = replace(recipe, projection_seeds=tuple(recipe.projection_seeds[place] for place in mine))
                shards = [todo[first][start : start + rows] for start in range(0, n_todo, rows)]
                # Another run may be filling this store: each starts somewhere else and passes over what is there.
                start = random.SystemRandom().randrange(len(shards))
                jobs.append(_Job(name, part, [stores[place] for place in mine], [*shards[start:], *shards[:start]]))
        return stores, jobs

    def _compute(self, jobs: Sequence["_Job"], examples: Pool) -> None:
        """All jobs in one run of the engine, whose workers then start once; each is a stage."""
        reads = [partial(read_item, job.recipe, self.inputs) for job in jobs]
        make = partial(
            fill_in_turn,
            [
                partial(
                    fill_shards,
                    job.recipe,
                    job.stores,
                    read,
                    batch_tokens=self.config.represent.batch_tokens,
                    activation_checkpointing=self.config.warmup.activation_checkpointing,
                )
                for job, read in zip(jobs, reads, strict=True)
            ],
        )
        tasks = _Tasks(examples, [(number, shard) for number, job in enumerate(jobs) for shard in job.shards])
        told = Current(self.note)
        done = self.engine.run(make, tasks, Told(told.advance, told.note))
        for job, read in zip(jobs, reads, strict=True):
            with self.stage(job.name, _n_tokens(read, examples, job.shards)) as told.now:
                for _ in islice(done, len(job.shards)):
                    pass
        for _ in done:  # the engine ends its workers when it is asked for more than there is
            raise AssertionError("more results than tasks")

    def _usable(self, examples: Pool, stores: Sequence[FeatureStore], what: What) -> Pool:
        reasons: dict[str, str] = {}
        for store in stores:
            reasons |= store.skipped()
        skipped = np.flatnonzero(np.isin(examples.packed_ids, pack(list(reasons))))
        left_out = list(examples.take(skipped))
        self.inputs.leave_out(f"{what}, skipped", [(example, reasons[example.id]) for example in left_out])
        usable = examples.without(skipped)
        if not usable:
            first = examples[0]
            n_alike = sum(reasons[example.id] == reasons[first.id] for example in left_out)
            raise InputError(
                f"no usable {what} row; {first.file} row {first.row}: {reasons[first.id]} "
                f"(so it is with {n_alike:,} of {len(examples):,} rows)"
                + ("; lower warmup.learning_rate, if the warm-up diverged" if "gradient" in reasons[first.id] else "")
            )
        return usable


@dataclass(frozen=True, slots=True)
class _Job:
    """The shards that some stores of one recipe lack, as positions among the examples."""

    name: str
    recipe: Recipe
    stores: Sequence[FeatureStore]
    shards: Sequence[np.ndarray]


@dataclass(frozen=True, slots=True)
class _Tasks(Sequence[tuple[int, list[Example]]]):
    """The number of the job and the examples of each shard, read when asked for."""

    examples: Pool
    shards: Sequence[tuple[int, np.ndarray]]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: Any) -> Any:
        job, positions = self.shards[number]
        return job, list(self.examples.take(positions))


def read_item(recipe: Recipe, inputs: Inputs, example: Example) -> Item | str:
    """What a row is made of, or the reason why the example has none."""
    if isinstance(recipe, SentenceRecipe):
        return recipe.words(example.text)
    if isinstance(recipe, NgramRecipe):
        return recipe.text(example)
    encoded = inputs.encode(example)
    if not isinstance(encoded, str) and encoded.n_supervised == 0:
        return f"no completion token within {inputs.max_tokens} tokens"
    return encoded


def _n_tokens(read: Callable[[Example], Item | str], examples: Pool, shards: Sequence[np.ndarray]) -> int:
    """How long the examples of all shards are together; of many a sample is read, evenly spread."""
    positions = np.concatenate(shards)
    sample = positions if len(positions) <= _COUNTED_ROWS else positions[:: len(positions) // _SAMPLED_ROWS]
    n_tokens = sum(item.n_tokens for item in map(read, examples.take(sample)) if not isinstance(item, str))
    return n_tokens * len(positions) // len(sample)


def lr_weights(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """η̄ᵢ / Σⱼ η̄ⱼ; InputError where all of several are zero. One alone has weight 1."""
    rates = np.array([checkpoint.mean_learning_rate for checkpoint in checkpoints])
    if len(rates) == 1:
        return [1.0]
    if not rates.sum() > 0:
        raise InputError("the checkpoints have mean learning rates of zero, so none has a weight: use one alone")
    return (rates / rates.sum()).tolist()  # type: ignore[no-any-return]
