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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock
from jaxtyping import Float32

from tamis.config import Config, home
from tamis.data.example import Example
from tamis.data.export import write_rejected
from tamis.data.selection import Selection, check_free, writing_folder
from tamis.engine import Engine
from tamis.engine.local import LocalEngine
from tamis.errors import DamagedError, InputError
from tamis.inputs import Inputs, digest
from tamis.methods import REPRESENTATIONS, SELECTORS, load, parse_method
from tamis.selectors import Picks, cut_to_tokens, nearest_target, parse_budget
from tamis.similarity import load_similarity, similarity, writing_similarity

if TYPE_CHECKING:
    from tamis.model.checkpoint import Checkpoint
    from tamis.representations.adam import Form
    from tamis.store import FeatureStore

Advance = Callable[[int], None]


@runtime_checkable
class Progress(Protocol):
    """How a run tells what it does: the command line draws bars, a library call stays silent."""

    def stage(self, name: str, n_tokens: int) -> AbstractContextManager[Advance]:
        """A stage of so many tokens (0: not known); the function it yields is told of every few that are done."""
        ...

    def note(self, text: str) -> None:
        """One sentence for the user."""
        ...


class Silent:
    """Progress that says nothing."""

    def stage(self, name: str, n_tokens: int) -> AbstractContextManager[Advance]:
        """See Progress."""
        return nullcontext(lambda _: None)

    def note(self, text: str) -> None:
        """See Progress."""


@dataclass(frozen=True)
class Similarity:
    """The matrix with the examples its rows and columns stand for; float32, memory-mapped."""

    values: Float32[np.ndarray, "target pool"]
    targets: Sequence[Example]
    pool: Sequence[Example]
    path: Path


class Pipeline:
    """One run: its settings, its inputs (each read when first needed), its stages as methods, and their seconds."""

    def __init__(self, config: Config, progress: Progress | None = None, engine: Engine | None = None) -> None:
        self.config = config
        self.progress: Progress = progress or Silent()
        self.engine: Engine = engine or LocalEngine()
        self.method = parse_method(config.pick.method)
        self.inputs = Inputs(config, self.progress.note)
        self.workspace = Path(config.workspace)
        self.seconds: dict[str, float] = {}

    # ---- warm up ---------------------------------------------------------------------------------------------------

    def warm_up(self) -> list["Checkpoint"]:
        """Checkpoints of a LoRA warm-up on a seeded share of the pool, trained where the workspace lacks them."""
        from tamis.model.foreign import given_checkpoints
        from tamis.model.load import LoraSettings, add_lora, load_base
        from tamis.model.train import TrainSettings, finished_checkpoints, train
        from tamis.representations.gradient import check_layers

        warmup, inputs = self.config.warmup, self.inputs
        if warmup.checkpoints is not None:
            folder, imports = home(warmup.checkpoints), self.workspace / "checkpoints"
            found = given_checkpoints(folder, inputs.source, inputs.base_digest, imports, self.progress.note)
            inputs.check_base(found[0].base_digest, warmup.checkpoints)
            return found
        rows = inputs.warmup_rows()
        if warmup.warmup_ratio and warmup.epochs == 1 and len(rows) <= warmup.batch_size:
            raise InputError(
                f"the warm-up on {len(rows)} rows has one step, whose learning rate is 0 because it is the first: "
                "set warmup.epochs=2, or warmup.warmup_ratio=0"
            )
        settings = TrainSettings(
            epochs=warmup.epochs,
            learning_rate=warmup.learning_rate,
            batch_size=warmup.batch_size,
            micro_batch_size=warmup.micro_batch_size,
            warmup_ratio=warmup.warmup_ratio,
            weight_decay=warmup.weight_decay,
            seed=self.config.seed,
            activation_checkpointing=warmup.activation_checkpointing,
        )
        lora = LoraSettings(warmup.lora_rank, warmup.lora_alpha, warmup.lora_dropout, warmup.lora_targets)
        name = digest(
            inputs.base_digest, inputs.chat.fingerprint, inputs.dtype, lora, settings, [e.id for e, _ in rows]
        )
        folder = self.workspace / "checkpoints" / name
        done = finished_checkpoints(folder)
        if len(done) == warmup.epochs:
            self.progress.note(f"warm-up: {warmup.epochs} epochs found in {folder}")
            return done
        self.progress.note(
            f"warm-up: {len(rows):,} examples, {warmup.epochs} epochs" + (f", {len(done)} done before" if done else "")
        )
        n_tokens = warmup.epochs * sum(len(encoded.input_ids) for _, encoded in rows)
        folder.mkdir(parents=True, exist_ok=True)
        # Another run may be training the same: wait for it, then find its checkpoints. The lock dies with its process.
        with FileLock(folder / "lock"), self._stage("warm up", n_tokens) as advance:
            model = add_lora(load_base(inputs.source), lora, self.config.seed)
            check_layers(model)
            return train(
                model,
                [encoded for _, encoded in rows],
                settings,
                folder,
                base_digest=inputs.base_digest,
                advance=advance,
                note=self.progress.note,
            )

    # ---- represent -------------------------------------------------------------------------------------------------

    @cached_property
    def checkpoints(self) -> list["Checkpoint"]:
        """The warm-up's, made once a run."""
        return self.warm_up()

    def represent_all(self) -> list["FeatureStore"]:
        """Features of the pool, and of the target where one is given."""
        stores = self.represent(list(self.inputs.target), "sgd", "target") if self.config.data.target else []
        return stores + self.represent(list(self.inputs.pool), self.config.represent.adam, "pool")

    def represent(self, examples: Sequence[Example], form: "Form", what: str) -> list["FeatureStore"]:
        """A store per checkpoint that holds the gradient rows of all these examples (or why one has none)."""
        from tamis.representations.compute import GradientRecipe, feature_dim, fill_shards
        from tamis.store import FeatureStore

        settings, inputs = self.config.represent, self.inputs
        by_id = {example.id: example for example in examples}
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
            shards = store.plan(list(by_id), settings.shard_rows)
            n_todo = sum(map(len, shards))
            name = f"{what} features {number}/{len(self.checkpoints)}"
            self.progress.note(f"{name}: {n_todo:,} rows to compute, {len(by_id) - n_todo:,} in {store.folder}")
            if not shards:
                continue
            encode = {id_: inputs.encode(by_id[id_]) for shard in shards for id_ in shard}
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
            with self._stage(name, n_tokens) as advance:
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
        targets, pool = list(self.inputs.target), list(self.inputs.pool)
        name = digest(self.method.representation, [e.id for e in targets], [e.id for e in pool])

        def fill(out: np.ndarray) -> None:
            out[:] = load(function)([e.text for e in targets], [e.text for e in pool])

        return self._similarity(name, targets, pool, fill)

    def _score_rows(self) -> Similarity:
        target_stores = self.represent(list(self.inputs.target), "sgd", "target")
        pool_stores = self.represent(list(self.inputs.pool), self.config.represent.adam, "pool")
        targets = self._usable(list(self.inputs.target), target_stores, "target")
        pool = self._usable(list(self.inputs.pool), pool_stores, "pool")
        for group in sorted({str(e.group) for e in self.inputs.target} - {str(e.group) for e in targets}):
            self.progress.note(f"target: no row of the group {group} can be used, so it has no say")
        rates = np.array([checkpoint.mean_learning_rate for checkpoint in self.checkpoints])
        lr_weights = (rates / rates.sum()).tolist()
        target_ids, pool_ids = [e.id for e in targets], [e.id for e in pool]

        def fill(out: np.ndarray) -> None:
            rows = [store.rows(target_ids) for store in target_stores]
            similarity(rows, [store.shards(pool_ids) for store in pool_stores], lr_weights, len(pool), out=out)

        folders = [store.folder.name for store in [*target_stores, *pool_stores]]
        return self._similarity(digest(folders, lr_weights, target_ids, pool_ids), targets, pool, fill)

    def _similarity(
        self, name: str, targets: Sequence[Example], pool: Sequence[Example], fill: Callable[[np.ndarray], None]
    ) -> Similarity:
        path = self.workspace / "similarity" / f"{name}.npy"
        target_ids, pool_ids = [e.id for e in targets], [e.id for e in pool]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another run may be writing the same. The lock dies with its process.
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    with self._stage("score", 0), writing_similarity(path, target_ids, pool_ids) as out:
                        fill(out)
        values, *ids = load_similarity(path)
        if ids != [target_ids, pool_ids]:
            raise DamagedError(f"{path}: its ids are not those of this run's rows. Delete it, and run again.")
        return Similarity(values, targets, pool, path)

    def _usable(self, examples: Sequence[Example], stores: Sequence["FeatureStore"], what: str) -> list[Example]:
        reasons: dict[str, str] = {}
        for store in stores:
            reasons |= store.skipped()
        usable = [example for example in examples if example.id not in reasons]
        self.inputs.skip(what, [(example, reasons[example.id]) for example in examples if example.id in reasons])
        if not usable:
            first = examples[0]
            n_alike = sum(reasons[example.id] == reasons[first.id] for example in examples)
            raise InputError(
                f"no usable {what} row; {first.file} row {first.row}: {reasons[first.id]} "
                f"(so it is with {n_alike:,} of {len(examples):,} rows)"
                + ("; lower warmup.learning_rate, if the warm-up diverged" if "gradient" in reasons[first.id] else "")
            )
        return usable

    # ---- pick ------------------------------------------------------------------------------------------------------

    def pick(self) -> Selection:
        """The selection: the selector's complete or asked-for ranking, cut to the budget."""
        budget = parse_budget(self.config.pick.budget)
        if self.config.out is not None:
            check_free(Path(self.config.out))  # hours of work come before the writing
        scored = None if self.method.representation is None else self.score()
        pool = list(self.inputs.pool) if scored is None else list(scored.pool)
        n_examples = budget.n_examples(len(pool))
        if budget.kind == "examples" and budget.value > len(pool):
            self.progress.note(f"the budget of {budget.value:,} exceeds the {len(pool):,} usable rows: all are taken")
        with self._stage("pick", 0):
            picks = self._call_selector(scored, pool, len(pool) if n_examples is None else n_examples)
            indices = picks.indices.tolist()
            if n_examples is None:
                indices = indices[: cut_to_tokens((self.inputs.n_supervised(pool[i]) for i in indices), budget.value)]
            examples = [pool[i] for i in indices]
            return Selection(
                examples=examples,
                scores=picks.scores[: len(indices)].tolist(),
                weights=None if picks.weights is None else picks.weights[: len(indices)].tolist(),
                taken_by=self._taken_by(scored, picks.indices[: len(indices)]),
                n_tokens=[self.inputs.n_supervised(e) if self.config.model.name else None for e in examples],
                manifest={
                    **self.inputs.manifest(),
                    "versions": {name: version(name) for name in ("tamis", "numpy", "torch", "transformers", "peft")},
                    "method": self.method.name,
                    "budget": self.config.pick.budget,
                    "representation": self.method.representation,
                    "selector": self.method.selector,
                    "similarity": scored and scored.path.stem,
                    "n_usable": len(pool),
                    "n_picked": len(examples),
                },
            )

    def _call_selector(self, scored: Similarity | None, pool: list[Example], n_examples: int) -> Picks:
        selector = SELECTORS[self.method.selector]
        given: dict[str, Any] = {"seed": self.config.seed}
        if scored is not None:
            given |= {"similarity": scored.values, "groups": [e.group for e in scored.targets]}
        given |= {"n_pool": len(pool), "sources": [e.source for e in pool]}
        options = dict(self.config.pick.options)
        wanted = [need for need in selector.needs if need != "sources" or options.pop("balanced", False)]
        picks: Picks = load(selector.function)(**{n: given[n] for n in wanted}, n_examples=n_examples, **options)
        return picks

    def _taken_by(self, scored: Similarity | None, indices: np.ndarray) -> list[str | None]:
        if scored is None:
            return [None] * len(indices)
        if self.method.selector == "round_robin":
            takers = [rank % len(scored.targets) for rank in range(len(indices))]
        else:
            takers = nearest_target(scored.values, indices).tolist()
        return [scored.targets[t].row_id or scored.targets[t].id for t in takers]

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
    def _stage(self, name: str, n_tokens: int) -> Iterator[Advance]:
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
