"""The training sets of a study: each method's picks at each budget, the baselines', bins of the pool by distance."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tamis.data.example import Example
from tamis.data.selection import Selection
from tamis.errors import InputError
from tamis.inputs import digest
from tamis.methods import REPRESENTATIONS, SELECTORS, parse_method
from tamis.pipeline import Pipeline
from tamis.remote import Place, locate
from tamis.scoring import Similarity
from tamis.selectors import round_robin
from tamis.store.records import read_record, write_record
from tamis.study.distances import Distances, objective, of_subset
from tamis.study.settings import StudyConfig
from tamis.study.spending import Spending
from tamis.study.tables import BALANCED, FULL_POOL, LENGTH_MATCHED, RANDOM, ZERO_SHOT

_LEAST_REACH = 10  # rows of about a length, to each side, that one is drawn among


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
        self._of_ids: dict[Place, dict[str, int]] = {}
        self._similarities: dict[str, Similarity] = {}

    def _run(self, method: str, budget: str | None = None) -> Pipeline:
        """The run of one of the study's methods."""
        return self._first.sibling(self._study.run(self._model, self._target, budget, method))

    def _random(self, budget: str, seed: int, *, balanced: bool = False) -> Pipeline:
        config = self._study.run(self._model, self._target, budget, "random", seed, plain=True)
        if balanced:
            config = config.model_copy(update={"pick": config.pick.model_copy(update={"options": {"balanced": True}})})
        return self._first.sibling(config)

    # ---- methods and baselines -------------------------------------------------------------------------------------

    def methods(self, budget: str) -> Iterator[Chosen]:
        """The picks of each method; they are the same for every seed."""
        for name in self._study.study.methods:
            yield self._picked(name, self._run(name, budget))

    def baselines(self, budget: str, seed: int) -> Iterator[Chosen]:
        """Those of the baselines that have a budget; they differ by seed."""
        for name in self._study.study.baselines:
            if name in (RANDOM, BALANCED):
                yield self._picked(name, self._random(budget, seed, balanced=name == BALANCED))
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
            examples = [run.candidates[place] for place in kept["places"]]
            return Chosen("", "", examples, kept["weights"], kept["scores"], kept["taken_by"])
        selection: Selection = run.pick()
        place = {_origin(example): place for place, example in enumerate(run.candidates)}
        columns = {
            "places": [place[_origin(example)] for example in selection.examples],
            "weights": selection.weights,
            "scores": selection.scores,
            "taken_by": selection.taken_by,
        }
        write_record(path, columns)
        return Chosen("", "", selection.examples, selection.weights, selection.scores, selection.taken_by)

    def _length_matched(self, budget: str, seed: int) -> Chosen:
        """Random rows about as long as those of a method's picks, by supervised tokens."""
        name = self._study.study.length_of or next(iter(self._study.study.methods))
        picked = self._picked(name, self._run(name, budget)).examples
        pool, n_tokens = self._first.candidates, self._first.inputs.n_supervised
        lengths, wanted = (np.array([n_tokens(example) for example in rows]) for rows in (pool, picked))
        rows = [pool[int(i)] for i in length_matched(lengths, wanted, seed)]
        return self._measured(Chosen(LENGTH_MATCHED, budget, rows), None)

    # ---- distances -------------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> str | None:
        """The representation that distances are measured in: the first with cosines, of methods, then quantiles."""
        quantile = self._study.study.quantile
        runs = [self._run(name) for name in self._study.study.methods]
        runs += [self._of(name) for name in quantile.representations] if quantile else []
        return next((run.method.representation for run in runs if _has_cosines(run)), None)

    def similarity(self, representation: str) -> Similarity:
        """That of the target and the candidates, by the study's own settings."""
        if representation not in self._similarities:
            run = self._of(representation)
            with self._spending.of_run(self._model, self._target, self._named(representation) or representation, run):
                self._similarities[representation] = run.score()
        return self._similarities[representation]

    def _of(self, representation: str) -> Pipeline:
        """A run of this representation: of a method that looks at it, so that its settings hold here too."""
        if (name := self._named(representation)) is not None:
            return self._run(name)
        return self._first.sibling(self._study.run(self._model, self._target, method=representation, plain=True))

    def _named(self, representation: str) -> str | None:
        names = self._study.study.methods
        return next((name for name in names if self._run(name).method.representation == representation), None)

    def _measured(self, chosen: Chosen, run: Pipeline | None) -> Chosen:
        """With its distances: in the study's space, and its selector's objective in its own."""
        found = Distances()
        if self.space is not None:
            scored = self.similarity(self.space)
            column = self._columns(scored)
            found = of_subset(scored.values, [column[e.id] for e in chosen.examples if e.id in column])
        if run is not None and "similarity" in SELECTORS[run.method.selector].needs and _has_cosines(run):
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
    """Positions of random rows whose lengths are about `wanted`, without replacement.

    The rows are sorted by length, those of one length by chance. For each wanted length, in random order, one row is
    drawn among those not yet taken that are next to it: half a per cent of the rows to each side, ten at least.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(lengths))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    left, sizes = order.tolist(), lengths[order].tolist()
    reach = max(_LEAST_REACH, len(lengths) // 200)
    taken = np.empty(len(wanted), np.int64)
    for place in rng.permutation(len(wanted)):
        low, high = bisect_left(sizes, wanted[place]), bisect_right(sizes, wanted[place])
        drawn = int(rng.integers(max(0, low - reach), min(len(left), high + reach)))
        taken[place] = left.pop(drawn)
        del sizes[drawn]
    return taken


def _origin(example: Example) -> tuple[str, str, int, int | None]:
    """What tells a row from others, equal ones included."""
    return example.id, example.file, example.row, example.instance


def _has_cosines(run: Pipeline) -> bool:
    """Whether a run has similarities that 1 − similarity makes a distance of."""
    name = run.method.representation
    return name is not None and REPRESENTATIONS[name].makes == "rows" and run.config.represent.normalize


def _name(run: Pipeline) -> str:
    """Digest of all that a run's picks depend on.

    Rows and similarities are known by what they are kept as, which is a digest of model, recipe and examples.
    """
    inputs, selector = run.inputs, SELECTORS[run.method.selector]
    about: list[Any] = [run.config.pick.model_dump(), run.config.seed, run.candidates.digest, run.candidates.sources]
    about += [[locate(path).read_text(encoding="utf-8") for path in run.config.pick.include]]
    about += [inputs.target.digest, inputs.target.groups, inputs.base_digest, inputs.chat.fingerprint]
    if "similarity" in selector.needs:
        about.append(run.score().path.stem)
    if selector.needs_rows:
        rows = run.pool_rows
        about += [[store.folder.name for store in rows.stores], list(rows.lr_weights), rows.examples.digest]
    return digest("selection", *about)
