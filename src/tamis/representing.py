"""Represent: which recipes a method's rows are made by, and the stores that hold the rows."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from tamis.config import Config
from tamis.data.example import Example
from tamis.data.pool import Pool
from tamis.engine import Engine
from tamis.errors import InputError
from tamis.inputs import Inputs
from tamis.model.checkpoint import Checkpoint
from tamis.model.load import hidden_size
from tamis.progress import Advance
from tamis.representations.compute import Item, Recipe, fill_shards
from tamis.representations.recipes import ForwardRecipe, GradientRecipe, feature_dim
from tamis.representations.sentence import SentenceRecipe
from tamis.settings import home
from tamis.store import FeatureStore, StoredRows
from tamis.store.recipe import folder_name

What = Literal["pool", "target"]


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
        return StoredRows(self.stores, self.lr_weights, self.examples.ids, normalized=self.normalized)

    @cached_property
    def by_checkpoint(self) -> list[StoredRows]:
        """The rows of each checkpoint."""
        ids = self.examples.ids
        return [StoredRows([store], [1.0], ids, normalized=self.normalized) for store in self.stores]


@dataclass(frozen=True)
class Representing:
    """The represent stage of one run; `checkpoints` are made when gradients are first asked for."""

    config: Config
    inputs: Inputs
    workspace: Path
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
        recipes = self._recipes(representation, what, seeds)
        filled = [
            self._fill(recipe, examples, f"{what} features {number}/{len(recipes)}")
            for number, recipe in enumerate(recipes, 1)
        ]
        return [list(group) for group in zip(*filled, strict=True)]

    def _recipes(self, representation: str, what: What, seeds: Sequence[int]) -> Sequence[Recipe]:
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

    def _fill(self, recipe: Recipe, examples: Pool, name: str) -> list[FeatureStore]:
        """The stores of one recipe. Those that lack the same rows are filled in one go."""
        ids, settings = examples.ids, self.config.represent
        stores = [
            FeatureStore.open(self.workspace / "features" / folder_name(made_by), made_by)
            for made_by in recipe.to_dicts()
        ]
        plans = [tuple(store.plan(ids, settings.shard_rows)) for store in stores]
        n_ids = len(set(ids))
        for plan in dict.fromkeys(plans):
            mine = [place for place, other in enumerate(plans) if other == plan]
            n_todo = sum(map(len, plan))
            self.note(f"{name}: {n_todo:,} rows to compute, {n_ids - n_todo:,} in {stores[mine[0]].folder}")
            if plan:
                part = recipe
                if isinstance(recipe, GradientRecipe):
                    part = replace(recipe, projection_seeds=tuple(recipe.projection_seeds[place] for place in mine))
                self._compute(part, [stores[place] for place in mine], plan, examples, name)
        return stores

    def _compute(
        self,
        recipe: Recipe,
        stores: Sequence[FeatureStore],
        shards: Sequence[tuple[str, ...]],
        examples: Pool,
        name: str,
    ) -> None:
        todo = {id_ for shard in shards for id_ in shard}
        place = {id_: i for i, id_ in enumerate(examples.ids) if id_ in todo}

        def read(id_: str) -> Item | str:
            return self._read(recipe, examples[place[id_]])

        make = partial(
            fill_shards,
            recipe,
            stores,
            read,
            batch_tokens=self.config.represent.batch_tokens,
            activation_checkpointing=self.config.warmup.activation_checkpointing,
            note=self.note,
        )
        n_tokens = sum(item.n_tokens for item in map(read, place) if not isinstance(item, str))
        with self.stage(name, n_tokens) as advance:
            # Another run may be filling this store: each starts somewhere else and passes over what is there.
            start = random.SystemRandom().randrange(len(shards))
            for _ in self.engine.run(make, [*shards[start:], *shards[:start]], advance):
                pass

    def _read(self, recipe: Recipe, example: Example) -> Item | str:
        """What a row is made of, or the reason why the example has none."""
        if isinstance(recipe, SentenceRecipe):
            return recipe.words(example.text)
        encoded = self.inputs.encode(example)
        if not isinstance(encoded, str) and encoded.n_supervised == 0:
            return f"no completion token within {self.inputs.max_tokens} tokens"
        return encoded

    def _usable(self, examples: Pool, stores: Sequence[FeatureStore], what: What) -> Pool:
        reasons: dict[str, str] = {}
        for store in stores:
            reasons |= store.skipped()
        ids = examples.ids
        skipped = [position for position, id_ in enumerate(ids) if id_ in reasons]
        self.inputs.leave_out(f"{what}, skipped", [(examples[i], reasons[ids[i]]) for i in skipped])
        usable = examples.take(np.delete(np.arange(len(ids)), skipped))
        if not usable:
            first = examples[0]
            n_alike = sum(reasons[id_] == reasons[first.id] for id_ in ids)
            raise InputError(
                f"no usable {what} row; {first.file} row {first.row}: {reasons[first.id]} "
                f"(so it is with {n_alike:,} of {len(examples):,} rows)"
                + ("; lower warmup.learning_rate, if the warm-up diverged" if "gradient" in reasons[first.id] else "")
            )
        return usable


def lr_weights(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """η̄ᵢ / Σⱼ η̄ⱼ; InputError where all of several are zero. One alone has weight 1."""
    rates = np.array([checkpoint.mean_learning_rate for checkpoint in checkpoints])
    if len(rates) == 1:
        return [1.0]
    if not rates.sum() > 0:
        raise InputError("the checkpoints have mean learning rates of zero, so none has a weight: use one alone")
    return (rates / rates.sum()).tolist()  # type: ignore[no-any-return]
