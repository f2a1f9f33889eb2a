"""The training sets of a study: each method's picks at each budget, the baselines', bins of the pool by distance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tamis.config import Config
from tamis.data.example import Example
from tamis.data.selection import Selection
from tamis.errors import InputError
from tamis.inputs import digest
from tamis.methods import REPRESENTATIONS, SELECTORS, parse_method
from tamis.pipeline import Pipeline
from tamis.scoring import Similarity
from tamis.selectors import round_robin
from tamis.store.records import read_record, write_record
from tamis.study.distances import Distances, objective, of_subset
from tamis.study.settings import StudyConfig
from tamis.study.spending import Spending
from tamis.study.tables import BALANCED, FULL_POOL, LENGTH_MATCHED, RANDOM, ZERO_SHOT

_N_LENGTH_BINS = 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one cell is trained on, and how it was chosen; `taken_by`: id of the target row that took each."""

    method: str
    budget: str
    examples: Sequence[Example]
    weights: Sequence[float | None] | None = None
    scores: Sequence[float | None] = ()
    taken_by: Sequence[str | None] = ()
    distances: Distances = field(default_factory=Distances)
    representation: str = ""
    bin: int | None = None


class Selecting:
    """The training sets for one model and one target. `spending` is told what was spent on them."""

    def __init__(self, study: StudyConfig, model: str, target: str, first: Pipeline, spending: Spending) -> None:
        self._study, self._model, self._target = study, model, target
        self._first, self._spending = first, spending
        self._of_ids: dict[Path, dict[str, int]] = {}
        self._similarities: dict[str, Similarity] = {}

    def _run(self, method: str, budget: str | None = None, seed: int | None = None) -> Pipeline:
        return self._first.sibling(self._study.run(self._model, self._target, budget, method, seed))

    # ---- methods and baselines -------------------------------------------------------------------------------------

    def methods(self, budget: str) -> Iterator[Chosen]:
        """The picks of each method; they are the same for every seed."""
        for name in self._study.study.methods:
            yield self._picked(name, self._run(name, budget))

    def baselines(self, budget: str, seed: int) -> Iterator[Chosen]:
        """Those of the baselines that have a budget; they differ by seed."""
        for name in self._study.study.baselines:
            if name in (RANDOM, BALANCED):
                config = self._study.run(self._model, self._target, budget, "random", seed)
                if name == BALANCED:
                    options = {**config.pick.options, "balanced": True}
                    config = config.model_copy(update={"pick": config.pick.model_copy(update={"options": options})})
                yield self._picked(name, self._first.sibling(config))
            elif name == LENGTH_MATCHED:
                yield self._length_matched(budget, seed)

    def without_budget(self) -> Iterator[tuple[Chosen, int]]:
        """Zero-shot and full pool, each with the number of seeds it is to have."""
        if ZERO_SHOT in self._study.study.baselines:
            yield Chosen(ZERO_SHOT, "", ()), 1
        if FULL_POOL in self._study.study.baselines:
            whole = Chosen(FULL_POOL, "100%", list(self._first.candidates))
            yield self._measured(whole, None), self._study.study.full_pool_seeds

    def _picked(self, name: str, run: Pipeline) -> Chosen:
        with self._spending.of_run(self._model, self._target, name, run):
            found = self._kept(run)
        representation = run.method.representation or ""
        chosen = replace(found, method=name, budget=run.config.pick.budget, representation=representation)
        return self._measured(chosen, run)

    def _kept(self, run: Pipeline) -> Chosen:
        """The picks of a run, made once; where they are found again, no selector runs."""
        path = run.workspace / "selections" / f"{_name(run)}.json"
        if path.exists():
            kept = read_record(path)
            by_id = {example.id: example for example in run.candidates}
            examples = [by_id[id_] for id_ in kept["ids"]]
            return Chosen("", "", examples, kept["weights"], kept["scores"], kept["taken_by"])
        selection: Selection = run.pick()
        columns = {
            "ids": selection.ids,
            "weights": selection.weights,
            "scores": selection.scores,
            "taken_by": selection.taken_by,
        }
        write_record(path, columns)
        return Chosen("", "", selection.examples, selection.weights, selection.scores, selection.taken_by)

    def _length_matched(self, budget: str, seed: int) -> Chosen:
        """Random rows as long as those of a method's picks, by supervised tokens."""
        name = self._study.study.length_of or next(iter(self._study.study.methods))
        picked = self._picked(name, self._run(name, budget)).examples
        run = self._run("random", budget, seed)
        pool = run.candidates
        lengths = np.array([run.inputs.n_supervised(example) for example in pool])
        wanted = np.array([run.inputs.n_supervised(example) for example in picked])
        rows = [pool[int(i)] for i in length_matched(lengths, wanted, seed)]
        return self._measured(Chosen(LENGTH_MATCHED, budget, rows), None)

    # ---- distances -------------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> str | None:
        """The representation that distances are measured in: the first that makes rows, of methods, then quantiles."""
        quantile = self._study.study.quantile
        names = [self._run(name).method.representation for name in self._study.study.methods]
        names += quantile.representations if quantile else []
        return next((name for name in names if name is not None and REPRESENTATIONS[name].makes == "rows"), None)

    def similarity(self, representation: str) -> Similarity:
        """That of the target and the candidates, by the study's own settings."""
        if representation not in self._similarities:
            name = self._method_of(representation)
            run = self._run(name)
            with self._spending.of_run(self._model, self._target, name, run):
                self._similarities[representation] = run.score()
        return self._similarities[representation]

    def _method_of(self, representation: str) -> str:
        """A method of the study that looks at it, so that its settings hold here too; else its plain name."""
        for name in self._study.study.methods:
            if self._run(name).method.representation == representation:
                return name
        return representation

    def _measured(self, chosen: Chosen, run: Pipeline | None) -> Chosen:
        """With its distances: in the study's space, and its selector's objective in its own."""
        found = Distances()
        if self.space is not None:
            scored = self.similarity(self.space)
            column = self._columns(scored)
            found = of_subset(scored.values, [column[e.id] for e in chosen.examples if e.id in column])
        if run is not None and _has_distances(run):
            scored = run.score()
            column = self._columns(scored)
            pairs = zip(chosen.examples, chosen.scores, strict=True)
            ranked = [(column[e.id], score) for e, score in pairs if score is not None and e.id in column]
            part = np.asarray(scored.values[:, [at for at, _ in ranked]])
            own = objective(run.method.selector, np.array([score for _, score in ranked]), part)
            found = replace(found, objective=own)
        return replace(chosen, distances=found)

    def _columns(self, scored: Similarity) -> dict[str, int]:
        """Column of each pool row's id."""
        if scored.path not in self._of_ids:
            self._of_ids[scored.path] = {id_: column for column, id_ in enumerate(scored.pool.ids)}
        return self._of_ids[scored.path]

    # ---- bins by distance ------------------------------------------------------------------------------------------

    def bins(self) -> Iterator[Chosen]:
        """The first rows of each bin of the pool, in the order in which the target's rows take turns to choose.

        Of each representation; bin 0 is nearest. InputError where a bin has fewer rows than asked for.
        """
        quantile = self._study.study.quantile
        for name in quantile.representations if quantile else []:
            assert quantile is not None
            scored = self.similarity(name)
            n_pool = len(scored.pool)
            if n_pool // quantile.bins < quantile.rows:
                raise InputError(
                    f"study.quantile: {n_pool:,} rows in {quantile.bins} bins are {n_pool // quantile.bins:,} a bin, "
                    f"expected at least study.quantile.rows={quantile.rows}"
                )
            order = round_robin(scored.values, n_examples=n_pool).indices
            for number, places in enumerate(np.array_split(order, quantile.bins)):
                rows = places[: quantile.rows]
                own = round_robin_cost(scored.values, rows)
                distances = replace(of_subset(scored.values, rows), objective=own)
                examples = [scored.pool[int(place)] for place in rows]
                yield Chosen(
                    parse_method(name).name,
                    str(quantile.rows),
                    examples,
                    distances=distances,
                    representation=name,
                    bin=number,
                )


def round_robin_cost(similarity: np.ndarray, rows: np.ndarray) -> float:
    """Round robin's objective for rows in its order: mean 1 − similarity to the target row whose turn it would be."""
    turns = np.arange(len(rows)) % len(similarity)
    return float(np.mean(1 - np.asarray(similarity[turns, rows], np.float64)))


def length_matched(lengths: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Positions of random rows whose lengths are distributed as `wanted`, without replacement.

    Rows are sorted into 20 bins of equal width in the rank of length over the pool; from each bin as many are drawn as
    `wanted` has in it, and where a bin is too small the rest from the nearest others.
    """
    rng = np.random.default_rng(seed)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _N_LENGTH_BINS + 1)[1:-1]))
    of_pool, of_wanted = np.searchsorted(edges, lengths, "right"), np.searchsorted(edges, wanted, "right")
    left = {b: list(rng.permutation(np.flatnonzero(of_pool == b))) for b in range(len(edges) + 1)}
    taken = []
    for b in of_wanted:
        nearest = min((k for k in left if left[k]), key=lambda k: (abs(k - b), k))
        taken.append(left[nearest].pop())
    return np.array(taken)


def _has_distances(run: Pipeline) -> bool:
    """Whether the selector looks at similarities that 1 − similarity makes a distance of."""
    name = run.method.representation
    by_similarity = "similarity" in SELECTORS[run.method.selector].needs
    return (
        by_similarity and name is not None and REPRESENTATIONS[name].makes == "rows" and run.config.represent.normalize
    )


def _name(run: Pipeline) -> str:
    """Digest of all that a run's picks depend on."""
    config: Config = run.config
    about: list[Any] = [config.pick.model_dump(), config.seed, run.candidates.ids, run.candidates.sources]
    target = run.inputs.target
    about += [target.ids, target.groups]
    if run.method.representation is not None or config.model.name is not None:
        about += [config.model.model_dump(), run.inputs.base_digest, run.inputs.chat.fingerprint]
        about += [config.represent.model_dump(exclude={"batch_tokens", "shard_rows"}), config.warmup.model_dump()]
    if config.warmup.checkpoints is not None and run.method.representation == "gradient":
        about.append([checkpoint.fingerprint for checkpoint in run.checkpoints])
    return digest("selection", *about)
