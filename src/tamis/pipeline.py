"""START HERE: read → warm up → represent → score → pick → write.

Each stage leaves its result in the workspace under a digest of all that it depends on, and finds it there the next
time. So every stage may be asked for alone, an interrupted run goes on where it was, and a new target costs only its
own few rows:

    <workspace>/checkpoints/<digest>/epoch-<k>/     the warm-up's checkpoints (gradients alone have one)
                features/<recipe digest>/           one store per recipe: of gradients, per checkpoint and direction
                similarity/<digest>.npy             target × pool
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.config import Config
from tamis.data.export import write_rejected
from tamis.data.pool import Pool
from tamis.data.selection import Selection, check_free, writing_folder
from tamis.engine import Engine, engine_of
from tamis.engine.local import LocalEngine
from tamis.errors import InputError
from tamis.inputs import Inputs, digest
from tamis.methods import REPRESENTATIONS, SELECTORS, load
from tamis.picking import Ranking, candidates, pick
from tamis.progress import Advance, Progress, Silent, Told
from tamis.remote import locate
from tamis.report.facts import Looked, selection_facts
from tamis.scoring import Similarity, given_similarity, kept_similarity, score_rows, takers
from tamis.selectors import Picks, parse_budget
from tamis.selectors.rows import mean
from tamis.settings import memory_bytes

if TYPE_CHECKING:
    from tamis.model.checkpoint import Checkpoint
    from tamis.representing import Representing, Rows
    from tamis.store import FeatureStore


_WORTH_WORKERS = 10**11  # multiplications: some seconds of one core
_LIBRARIES = ("tamis", "numpy", "torch", "transformers", "peft")


class Pipeline:
    """One run: its settings, its inputs (each read when first needed), its stages as methods, and their seconds."""

    def __init__(
        self,
        config: Config,
        progress: Progress | None = None,
        engine: Engine | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.config = config
        self.progress: Progress = progress or Silent()
        self.engine: Engine = engine or engine_of(config.engine, config.model.device)
        self.method = config.method
        self.inputs = inputs or Inputs(config, self.progress.note)
        self.workspace = locate(config.workspace)
        self.seconds: dict[str, float] = {}
        if unheeded := config.unheeded():
            self.progress.note(f"without effect with {self.method.name}: {', '.join(unheeded)}")

    def sibling(self, config: Config) -> "Pipeline":
        """A run by other settings over the same data, read by the same model: nothing is read twice."""
        if (config.data, config.model) != (self.config.data, self.config.model):
            raise ValueError("a sibling has the same data and model")
        run = Pipeline(config, self.progress, self.engine, self.inputs)
        if _filters(config) == _filters(self.config):
            run.candidates = self.candidates
        return run

    # ---- warm up ---------------------------------------------------------------------------------------------------

    def warm_up(self) -> list["Checkpoint"]:
        """Checkpoints of a warm-up on a seeded share of the pool, trained where the workspace lacks them."""
        from tamis.warming import warm_up

        return warm_up(self.config, self.inputs, self.workspace, self.engine, self.stage, self.progress.note)

    # ---- candidates ------------------------------------------------------------------------------------------------

    @cached_property
    def candidates(self) -> Pool:
        """The pool without what filters and leaks leave out."""
        with self.stage("read", 0):
            _ = self.inputs.pool
        with self.stage("filter", 0):
            return candidates(self.config, self.inputs, self.progress.note)

    # ---- represent -------------------------------------------------------------------------------------------------

    @cached_property
    def checkpoints(self) -> list["Checkpoint"]:
        """Those of the warm-up (made once a run) that gradients are taken at."""
        made, wanted = self.warm_up(), self.config.represent.checkpoints
        if wanted is None:
            return made
        if any(not 1 <= abs(number) <= len(made) for number in wanted):
            raise InputError(f"represent.checkpoints: expected numbers from 1 to {len(made)} (or -1 …), got {wanted}")
        places = [(number - (number > 0)) % len(made) for number in wanted]
        if len(set(places)) < len(places):
            raise InputError(f"represent.checkpoints: expected each checkpoint once, got {wanted} of {len(made)}")
        return [made[place] for place in places]

    @cached_property
    def representing(self) -> "Representing":
        """The stage with all it needs."""
        from tamis.representing import Representing

        return Representing(
            self.config,
            self.inputs,
            self.workspace,
            self.engine,
            lambda: self.checkpoints,
            self.stage,
            self.progress.note,
        )

    def represent_all(self) -> list["FeatureStore"]:
        """Rows of the pool, and of the target where one is given and looked at."""
        name = self.method.representation
        if name is None or REPRESENTATIONS[name].makes == "scores":
            raise InputError(f"method {self.method.name!r} keeps no rows: there is nothing to represent")
        _ = self.candidates  # a pool that cannot be read is known before the target's rows are made
        looks_at_target = self.inputs.has_target and REPRESENTATIONS[name].makes == "rows"
        stores = self.representing.stores(name, self.inputs.target, "target")[0] if looks_at_target else []
        return stores + self.representing.stores(name, self.candidates, "pool")[0]

    @cached_property
    def target_rows(self) -> "Rows":
        """Feature rows of the target."""
        return self.representing.rows(str(self.method.representation), self.inputs.target, "target")[0]

    @cached_property
    def pool_rows(self) -> "Rows":
        """Feature rows of the candidates that have them."""
        return self.representing.rows(str(self.method.representation), self.candidates, "pool")[0]

    # ---- score -----------------------------------------------------------------------------------------------------

    def score(self) -> Similarity:
        """The similarity the method picks by: of the usable targets to the usable pool rows, or a ranking of these."""
        name = self.method.representation
        if name is None:
            raise InputError(f"method {self.method.name!r} picks without similarities: there is nothing to score")
        representation = REPRESENTATIONS[name]
        _ = self.candidates  # a pool that cannot be read is known before the target's rows are made
        if representation.makes == "rows":
            return self._score_rows(self.target_rows, self.pool_rows)
        if representation.makes == "ranking":
            return self._score_ranking(name)
        targets, pool = self.inputs.target, self.candidates
        available = {"groups": self._groups(), "smoothing": self.config.represent.smoothing}
        given = {need: available[need] for need in representation.needs}

        def fill(out: np.ndarray) -> None:
            load(str(representation.function))(targets.texts, pool.texts, out, **given)

        return self._scored(digest(name, targets.digest, pool.digest, *given.values()), targets, pool, fill)

    def score_seeds(self, n_seeds: int) -> list[Similarity]:
        """The similarity under each of n_seeds projections, whose rows are made in one pass over the pool."""
        name, first = str(self.method.representation), self.config.represent.projection_seed
        seeds = range(first, first + n_seeds)
        targets = self.representing.rows(name, self.inputs.target, "target", seeds)
        pools = self.representing.rows(name, self.candidates, "pool", seeds)
        return [self._score_rows(target, pool) for target, pool in zip(targets, pools, strict=True)]

    def _score_rows(self, targets: "Rows", pool: "Rows") -> Similarity:
        """Streamed over shards, summed over checkpoints."""
        for group in sorted(set(map(str, self.inputs.target.groups)) - set(map(str, targets.examples.groups))):
            self.progress.note(f"target: no row of the group {group} can be used, so it has no say")
        target_ids, pool_ids = targets.examples.packed_ids, pool.examples.packed_ids
        unit = pool.normalized

        def fill(out: np.ndarray) -> None:
            rows = [store.rows(target_ids, normalized=unit) for store in targets.stores]
            engine = self._engine_for(len(target_ids) * len(pool_ids) * sum(store.dim for store in pool.stores))
            score_rows(engine, rows, pool.stores, pool.lr_weights, pool_ids, unit, out)

        folders = [store.folder.name for store in [*targets.stores, *pool.stores]]
        name = digest(
            folders, pool.lr_weights, targets.examples.digest, pool.examples.digest, *([] if unit else ["with norms"])
        )
        return self._scored(name, targets.examples, pool.examples, fill)

    def _score_ranking(self, representation: str) -> Similarity:
        """One row, the same for every target."""
        from tamis.representations.loss import ranking

        rows, prefer = self.pool_rows, self.config.represent.prefer
        ids = rows.examples.packed_ids

        def fill(out: np.ndarray) -> None:
            losses = {str(store.recipe["kind"]): store.norms(ids) for store in rows.stores}
            out[0] = ranking(representation, losses, prefer)

        name = digest(representation, prefer, [store.folder.name for store in rows.stores], rows.examples.digest)
        return self._scored(name, Pool.of([]), rows.examples, fill, [representation])

    def _scored(
        self, name: str, targets: Pool, pool: Pool, fill: Callable[[np.ndarray], None], rows: Sequence[str] = ()
    ) -> Similarity:
        path = self.workspace / "similarity" / f"{name}.npy"
        return kept_similarity(path, targets, pool, fill, lambda: self.stage("score", 0), rows)

    def _groups(self) -> list[str]:
        """The group of each target row, other than that of the same name of another target."""
        return [f"{name}/{e.group}" for name, target in self.inputs.targets.items() for e in target]

    # ---- pick ------------------------------------------------------------------------------------------------------

    def pick(self) -> Selection:
        """The selection: each target's ranking, walked under budget and constraints."""
        amounts = [self.config.pick.budget, *self.config.pick.quotas.values(), *self.config.pick.floors.values()]
        if parse_budget(self.config.pick.budget).kind == "tokens" or any(str(a).endswith("tok") for a in amounts):
            _ = self.inputs.source  # whose tokens? Better asked before hours of work
        if self.config.out is not None:
            check_free(locate(self.config.out))  # hours of work come before the writing
        selector = SELECTORS[self.method.selector]
        scored: Similarity | None = None
        if self.config.pick.similarity is not None:
            path = locate(self.config.pick.similarity)
            scored = given_similarity(path, self.inputs, self.candidates, self.memory_bytes)
        elif "similarity" in selector.needs:
            scored = self.score()
        targets: Pool | None = None
        if scored is not None:
            pool, targets = scored.pool, scored.targets or None
        else:
            pool = self.pool_rows.examples if selector.needs_rows else self.candidates
            if "goal" in selector.needs and self.inputs.has_target:
                targets = self.target_rows.examples
        if targets is None and self.inputs.has_target:
            self.progress.note(f"{self.method.name} does not look at the target, but for leaks")
        parts = self.targets_of(targets)
        with self.stage("pick", 0):
            rankings = [
                Ranking(name, weight, selector.nested, partial(self.rank, scored, pool, part))
                for name, weight, part in parts
            ]
            picked = pick(self.config, self.inputs, pool, rankings, self.progress.note)
            examples = [pool[i] for i in picked.walked.indices]
            taken_by = takers(scored, [part for *_, part in parts], picked.walked, self.method.selector)
            labels = [target.row_id or target.id for target in scored.targets] if scored else []
            selection = Selection(
                examples=examples,
                scores=picked.column("scores"),
                weights=None if picked.ranked[0].weights is None else picked.column("weights"),
                taken_by=[None if taker is None else labels[taker] for taker in taken_by],
                n_tokens=[self.inputs.n_supervised(e) if self.config.model.name else None for e in examples],
                manifest={
                    **self.inputs.manifest(),
                    "versions": {name: version(name) for name in (*_LIBRARIES, *self._libraries)},
                    "method": self.method.name,
                    "budget": self.config.pick.budget,
                    "representation": self.method.representation,
                    "stores": self._stores(),
                    "selector": self.method.selector,
                    "similarity": scored and scored.path.stem,
                    "constraints": picked.summary,
                    "n_usable": len(pool),
                    "n_picked": len(examples),
                },
            )
        if self.config.out is None:
            return selection  # nobody will read what it looked at
        looked = Looked(
            pool=pool,
            picked=picked.walked.indices,
            scores=selection.scores,
            rankings=picked.walked.takers,
            takers=taken_by,
            targets=Pool.of([]) if targets is None else targets,
            values=None if scored is None else scored.values,
            parts=[(name, part) for name, _, part in parts],
            selector=self.method.selector,
            ranked_by=self._ranked_by,
            reduce=self.config.pick.options.get("reduce", "group_mean_max"),
        )
        n_supervised = self.inputs.n_supervised if self.config.model.name else None
        return replace(selection, facts=selection_facts(looked, examples, n_supervised, self.config.seed))

    @property
    def _ranked_by(self) -> str:
        """What the similarity is."""
        name = self.method.representation
        if name is None:
            return "similarity"
        settings = self.config.represent
        return {
            "rows": f"{name} {'cosine similarity' if settings.normalize else 'dot product'}",
            "scores": f"{name} score",
            "ranking": f"{name} ({settings.prefer} first)",
        }[REPRESENTATIONS[name].makes]

    @property
    def _libraries(self) -> tuple[str, ...]:
        name = self.method.representation
        return () if name is None else REPRESENTATIONS[name].libraries

    def _stores(self) -> dict[str, Any]:
        """The recipe of each store that was looked at, by the name of its folder."""
        looked_at = [rows for name in ("target_rows", "pool_rows") if (rows := vars(self).get(name)) is not None]
        return {store.folder.name: store.recipe for rows in looked_at for store in rows.stores}

    def targets_of(self, targets: Pool | None) -> list[tuple[str, float, slice]]:
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

    def rank(self, scored: Similarity | None, pool: Pool, part: slice, n_examples: int) -> Picks:
        """The first n_examples picks of the selector, by one target's rows."""
        selector = SELECTORS[self.method.selector]
        available: dict[str, Callable[[], Any]] = {
            "seed": lambda: self.config.seed,
            "n_pool": lambda: len(pool),
            "sources": lambda: pool.labels("source").codes,
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
        share = sum(n_examples for _, n_examples in tasks) // max(1, len(tasks))  # of a cluster
        engine = self._engine_for(self.pool_rows.combined.shape[0] * self.pool_rows.combined.shape[1] * share)
        return engine.run(partial(_without_progress, function), tasks, Told())

    def _engine_for(self, n_products: int) -> Engine:
        """For arithmetic alone. Workers take seconds to start: what this process does sooner, it does itself."""
        return self.engine if n_products >= _WORTH_WORKERS else LocalEngine(self.config.engine.threads_per_worker)

    @cached_property
    def memory_bytes(self) -> int:
        """What similarities and features may take: as asked for, or half of what is free."""
        if self.config.memory is not None:
            return memory_bytes(self.config.memory)
        import psutil

        return int(psutil.virtual_memory().available) // 2

    # ---- write -----------------------------------------------------------------------------------------------------

    def write(self, selection: Selection) -> None:
        """selected.jsonl, picks.parquet, config.yaml, manifest.json; report.html with its figures, its tables and its
        numbers in report.json; rejected.jsonl if a row was. The folder appears whole.
        """
        from tamis.report.html import report_facts, write_report

        if self.config.out is None:
            raise InputError("say where to write: --out FOLDER")
        manifest = {**selection.manifest, "seconds": {name: round(s, 3) for name, s in self.seconds.items()}}
        with writing_folder(locate(self.config.out)) as folder:
            selection.save(folder, manifest, self.config.to_yaml())
            write_report(folder, report_facts(selection, manifest, self.config.to_yaml()))
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


def _filters(config: Config) -> dict[str, Any]:
    """What decides which rows are candidates."""
    return config.pick.model_dump(include={"include", "exclude", "min_tokens", "max_tokens", "keep_leaks"})


def _without_progress(function: Callable[[Any], Picks]) -> Callable[[Any, Told], Picks]:
    """A selector's task as the engine runs tasks."""
    return lambda task, _: function(task)
