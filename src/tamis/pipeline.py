"""START HERE: read → warm up → represent → score → pick → write.

Each stage leaves its result in the workspace under a digest of all that it depends on, and finds it there the next
time. So every stage may be asked for alone, an interrupted run goes on where it was, and a new target costs only its
own few rows:

    <workspace>/checkpoints/<digest>/epoch-<k>/     the warm-up's checkpoints
                features/<recipe digest>/           one store per checkpoint and step direction
                similarity/<digest>.npy             target × pool
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.config import Config, home, memory_bytes
from tamis.data.export import write_rejected
from tamis.data.pool import Pool
from tamis.data.selection import Selection, check_free, writing_folder
from tamis.engine import Engine
from tamis.engine.local import LocalEngine
from tamis.errors import InputError
from tamis.inputs import Inputs, digest
from tamis.methods import REPRESENTATIONS, SELECTORS, load
from tamis.picking import Ranking, candidates, pick
from tamis.progress import Advance, Progress, Silent
from tamis.scoring import Similarity, given_similarity, kept_similarity, taken_by
from tamis.selectors import Picks, parse_budget
from tamis.selectors.rows import mean
from tamis.similarity import similarity

if TYPE_CHECKING:
    from tamis.model.checkpoint import Checkpoint
    from tamis.representations.adam import Form
    from tamis.store import FeatureStore, StoredRows


@dataclass(frozen=True)
class Rows:
    """Feature rows in stores, one a checkpoint, with the examples that have one."""

    stores: Sequence["FeatureStore"]
    lr_weights: Sequence[float]
    examples: Pool

    @cached_property
    def combined(self) -> "StoredRows":
        """Σ lr_weight · row over the checkpoints."""
        from tamis.store import StoredRows

        return StoredRows(self.stores, self.lr_weights, self.examples.ids)

    @cached_property
    def by_checkpoint(self) -> list["StoredRows"]:
        """The rows of each checkpoint."""
        from tamis.store import StoredRows

        ids = self.examples.ids
        return [StoredRows([store], [1.0], ids) for store in self.stores]


class Pipeline:
    """One run: its settings, its inputs (each read when first needed), its stages as methods, and their seconds."""

    def __init__(self, config: Config, progress: Progress | None = None, engine: Engine | None = None) -> None:
        self.config = config
        self.progress: Progress = progress or Silent()
        self.engine: Engine = engine or LocalEngine()
        self.method = config.method
        self.inputs = Inputs(config, self.progress.note)
        self.workspace = Path(config.workspace)
        self.seconds: dict[str, float] = {}

    # ---- warm up ---------------------------------------------------------------------------------------------------

    def warm_up(self) -> list["Checkpoint"]:
        """Checkpoints of a warm-up on a seeded share of the pool, trained where the workspace lacks them."""
        from tamis.warming import warm_up

        return warm_up(self.config, self.inputs, self.workspace, self.stage, self.progress.note)

    # ---- candidates ------------------------------------------------------------------------------------------------

    @cached_property
    def candidates(self) -> Pool:
        """The pool without what filters and leaks leave out."""
        return candidates(self.config, self.inputs, self.progress.note)

    # ---- represent -------------------------------------------------------------------------------------------------

    @cached_property
    def checkpoints(self) -> list["Checkpoint"]:
        """The warm-up's, made once a run."""
        return self.warm_up()

    def represent_all(self) -> list["FeatureStore"]:
        """Features of the pool, and of the target where one is given."""
        stores = self.represent(self.inputs.target, "sgd", "target") if self.inputs.has_target else []
        return stores + self.represent(self.candidates, self.config.represent.adam, "pool")

    def represent(self, examples: Pool, form: "Form", what: str) -> list["FeatureStore"]:
        """A store per checkpoint that holds the gradient rows of all these examples (or why one has none)."""
        from tamis.representations.compute import GradientRecipe, feature_dim, fill_shards
        from tamis.store import FeatureStore

        settings, inputs = self.config.represent, self.inputs
        ids = examples.ids
        n_ids = len(set(ids))
        stores = []
        for number, checkpoint in enumerate(self.checkpoints, 1):
            recipe = GradientRecipe(
                source=inputs.source,
                checkpoint=checkpoint,
                form=form,
                kind=settings.projection,
                dim=feature_dim(settings.projection, settings.dim, checkpoint),
                projection_seed=settings.projection_seed,
                template=inputs.chat.fingerprint,
                max_tokens=inputs.max_tokens,
                dtype=inputs.dtype,
            )
            store = FeatureStore.open(self.workspace / "features" / digest(recipe.to_dict()), recipe.to_dict())
            stores.append(store)
            shards = store.plan(ids, settings.shard_rows)
            n_todo = sum(map(len, shards))
            name = f"{what} features {number}/{len(self.checkpoints)}"
            self.progress.note(f"{name}: {n_todo:,} rows to compute, {n_ids - n_todo:,} in {store.folder}")
            if not shards:
                continue
            todo = {id_ for shard in shards for id_ in shard}
            encode = {id_: inputs.encode(examples[i]) for i, id_ in enumerate(ids) if id_ in todo}
            make = partial(
                fill_shards,
                recipe,
                store,
                encode.__getitem__,
                batch_tokens=settings.batch_tokens,
                activation_checkpointing=self.config.warmup.activation_checkpointing,
                note=self.progress.note,
            )
            n_tokens = sum(len(e.input_ids) for e in encode.values() if not isinstance(e, str))
            with self.stage(name, n_tokens) as advance:
                # Another run may be filling this store: each starts somewhere else and passes over what is there.
                start = random.SystemRandom().randrange(len(shards))
                for _ in self.engine.run(make, shards[start:] + shards[:start], advance):
                    pass
        return stores

    # ---- score -----------------------------------------------------------------------------------------------------

    def score(self) -> Similarity:
        """Similarity of the usable targets to the usable pool rows, streamed over shards, summed over checkpoints."""
        if self.method.representation is None:
            raise InputError(f"method {self.method.name!r} picks without similarities: there is nothing to score")
        function = REPRESENTATIONS[self.method.representation].function
        if function is None:
            return self._score_rows()
        targets, pool = self.inputs.target, self.candidates
        name = digest(self.method.representation, targets.ids, pool.ids)

        def fill(out: np.ndarray) -> None:
            for row, values in enumerate(load(function)([e.text for e in targets], [e.text for e in pool])):
                out[row] = values

        return self._scored(name, targets, pool, fill)

    def _score_rows(self) -> Similarity:
        targets, pool = self.target_rows, self.pool_rows
        for group in sorted(set(map(str, self.inputs.target.groups)) - set(map(str, targets.examples.groups))):
            self.progress.note(f"target: no row of the group {group} can be used, so it has no say")
        target_ids, pool_ids = targets.examples.ids, pool.examples.ids

        def fill(out: np.ndarray) -> None:
            rows = [store.rows(target_ids) for store in targets.stores]
            similarity(rows, [store.shards(pool_ids) for store in pool.stores], pool.lr_weights, len(pool_ids), out=out)

        folders = [store.folder.name for store in [*targets.stores, *pool.stores]]
        name = digest(folders, pool.lr_weights, target_ids, pool_ids)
        return self._scored(name, targets.examples, pool.examples, fill)

    def _scored(self, name: str, targets: Pool, pool: Pool, fill: Callable[[np.ndarray], None]) -> Similarity:
        path = self.workspace / "similarity" / f"{name}.npy"
        return kept_similarity(path, targets, pool, fill, lambda: self.stage("score", 0))

    @cached_property
    def target_rows(self) -> Rows:
        """Feature rows of the target."""
        return self._rows(self.inputs.target, "sgd", "target")

    @cached_property
    def pool_rows(self) -> Rows:
        """Feature rows of the candidates that have them."""
        return self._rows(self.candidates, self.config.represent.adam, "pool")

    def _rows(self, examples: Pool, form: "Form", what: str) -> Rows:
        stores = self.represent(examples, form, what)
        rates = np.array([checkpoint.mean_learning_rate for checkpoint in self.checkpoints])
        return Rows(stores, (rates / rates.sum()).tolist(), self._usable(examples, stores, what))

    def _usable(self, examples: Pool, stores: Sequence["FeatureStore"], what: str) -> Pool:
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

    # ---- pick ------------------------------------------------------------------------------------------------------

    def pick(self) -> Selection:
        """The selection: each target's ranking, walked under budget and constraints."""
        parse_budget(self.config.pick.budget)
        if self.config.out is not None:
            check_free(Path(self.config.out))  # hours of work come before the writing
        selector = SELECTORS[self.method.selector]
        scored: Similarity | None = None
        if self.config.pick.similarity is not None:
            path = home(self.config.pick.similarity)
            scored = given_similarity(path, self.inputs, self.candidates, self.memory_bytes)
        elif "similarity" in selector.needs:
            scored = self.score()
        targets: Pool | None = None
        if scored is not None:
            pool, targets = scored.pool, scored.targets
        else:
            pool = self.pool_rows.examples if selector.needs_rows else self.candidates
            if "goal" in selector.needs and self.inputs.has_target:
                targets = self.target_rows.examples
            elif self.inputs.has_target:
                self.progress.note(f"{self.method.name} does not look at the target, but for leaks")
        parts = self._targets_of(targets)
        with self.stage("pick", 0):
            rankings = [
                Ranking(name, weight, selector.nested, partial(self._rank, scored, pool, part))
                for name, weight, part in parts
            ]
            picked = pick(self.config, self.inputs, pool, rankings, self.progress.note)
            examples = [pool[i] for i in picked.walked.indices]
            return Selection(
                examples=examples,
                scores=picked.column("scores"),
                weights=None if picked.ranked[0].weights is None else picked.column("weights"),
                taken_by=taken_by(scored, [part for *_, part in parts], picked.walked, self.method.selector),
                n_tokens=[self.inputs.n_supervised(e) if self.config.model.name else None for e in examples],
                manifest={
                    **self.inputs.manifest(),
                    "versions": {name: version(name) for name in ("tamis", "numpy", "torch", "transformers", "peft")},
                    "method": self.method.name,
                    "budget": self.config.pick.budget,
                    "representation": self.method.representation,
                    "selector": self.method.selector,
                    "similarity": scored and scored.path.stem,
                    "constraints": picked.summary,
                    "n_usable": len(pool),
                    "n_picked": len(examples),
                },
            )

    def _targets_of(self, targets: Pool | None) -> list[tuple[str, float, slice]]:
        """Name, weight and rows of each target; one that stands for all where the method looks at none."""
        if targets is None or not self.config.data.targets:
            return [("target", 1.0, slice(None))]
        usable = set(targets.ids)
        parts, start = [], 0
        for name, target in self.inputs.targets.items():
            n_rows = sum(id_ in usable for id_ in target.ids)
            if not n_rows:
                raise InputError(f"target {name}: none of its rows can be used; see the skipped rows above")
            parts.append((name, self.config.data.targets[name].weight, slice(start, start + n_rows)))
            start += n_rows
        return parts

    def _rank(self, scored: Similarity | None, pool: Pool, part: slice, n_examples: int) -> Picks:
        """The first n_examples picks of the selector, by one target's rows."""
        selector = SELECTORS[self.method.selector]
        available: dict[str, Callable[[], Any]] = {
            "seed": lambda: self.config.seed,
            "n_pool": lambda: len(pool),
            "sources": lambda: pool.sources,
            "memory_bytes": lambda: self.memory_bytes,
            "map": lambda: self._map,
            "features": lambda: self.pool_rows.combined,
            "pool_features": lambda: self.pool_rows.by_checkpoint,
            "lr_weights": lambda: self.pool_rows.lr_weights,
            "goal": lambda: self._goal(part),
        }
        if scored is not None:
            available["similarity"] = lambda: scored.values[part]
            available["groups"] = lambda: scored.targets[part].groups or None
        options = dict(self.config.pick.options)
        wanted = [need for need in selector.needs if need != "sources" or options.pop("balanced", False)]
        given = {need: available[need]() for need in wanted}
        try:
            picks: Picks = load(selector.function)(**given, n_examples=n_examples, **options)
        except ValueError as error:
            raise InputError(f"method {self.method.name!r}: {error}") from error
        return picks

    def _goal(self, part: slice) -> np.ndarray:
        """What a pursuit is to reach: the mean feature of a target's rows, or of the pool where there is none."""
        if not self.inputs.has_target:
            return mean(self.pool_rows.combined)
        goal: np.ndarray = self.target_rows.combined[part].mean(axis=0, dtype=np.float64)
        return goal

    def _map(self, function: Callable[[Any], Picks], tasks: Sequence[Any]) -> Iterator[Picks]:
        return self.engine.run(partial(_without_progress, function), tasks, lambda _: None)

    @cached_property
    def memory_bytes(self) -> int:
        """What similarities and features may take: as asked for, or half of what is free."""
        if self.config.memory is not None:
            return memory_bytes(self.config.memory)
        import psutil

        return int(psutil.virtual_memory().available) // 2

    # ---- write -----------------------------------------------------------------------------------------------------

    def write(self, selection: Selection) -> None:
        """selected.jsonl, picks.parquet, config.yaml, manifest.json, report.html, and rejected.jsonl if a row was.

        The folder appears whole.
        """
        from tamis.report.html import render

        if self.config.out is None:
            raise InputError("say where to write: --out FOLDER")
        manifest = {**selection.manifest, "seconds": {name: round(s, 3) for name, s in self.seconds.items()}}
        with writing_folder(Path(self.config.out)) as folder:
            selection.save(folder, manifest, self.config.to_yaml())
            (folder / "report.html").write_text(render(selection, manifest), encoding="utf-8")
            if self.inputs.rejected:
                write_rejected(folder / "rejected.jsonl", self.inputs.rejected)

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Advance]:
        """A stage whose seconds are counted; n_tokens 0: not known."""
        start = time.perf_counter()
        with self.progress.stage(name, n_tokens) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def select(config: Config, progress: Progress | None = None) -> Selection:
    """The whole pipeline; writes where `config.out` says."""
    run = Pipeline(config, progress)
    selection = run.pick()
    if config.out is not None:
        run.write(selection)
    return selection


def _without_progress(function: Callable[[Any], Picks]) -> Callable[[Any, Advance], Picks]:
    """A selector's task as the engine runs tasks."""
    return lambda task, _: function(task)
