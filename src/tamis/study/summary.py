"""Everything a study's page says, as tables, and in sentences made from their numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tamis.study import budgets, comparisons, costs, quantiles
from tamis.study.budgets import ALL, IN_ONE_SPACE, MEASURES, OF_ANY_SIZE, PLACE, QUERY_LOSS, SCORE, TEST_LOSS
from tamis.study.comparisons import BETTER, NOT_SHOWN, NOT_TESTED, WORSE
from tamis.study.tables import BASELINES, BUDGET, LENGTH_MATCHED, RANDOM, Results


@dataclass(frozen=True, slots=True)
class Summary:
    """Tables of a study, each by the function that makes it; one without rows where its numbers were not measured."""

    means: pd.DataFrame
    differences: pd.DataFrame
    ranks: pd.DataFrame
    equal_tokens: pd.DataFrame
    bins: pd.DataFrame
    correlations: pd.DataFrame
    distance_ranks: pd.DataFrame
    distance_correlations: pd.DataFrame
    cost_benefit: pd.DataFrame
    composition: pd.DataFrame

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Name and table of those with rows."""
        for name in self.__slots__:
            table = getattr(self, name)
            if len(table):
                yield name, table


def summarise(study: Results) -> Summary:
    """All tables of a study. InputError for losses of examples that contradict its results."""
    rows = budgets.of_kind(study.results, BUDGET)
    measures = budgets.measures(rows)
    means = budgets.means(rows)
    differences = comparisons.differences(rows, study.examples)
    bins = quantiles.bins(study.results)
    known = [name for name in IN_ONE_SPACE if rows[name].notna().any()]
    return Summary(
        means=means,
        differences=differences,
        ranks=budgets.ranks(rows, measures),
        equal_tokens=budgets.equal_tokens(rows, measures[0] if measures else TEST_LOSS),
        bins=bins,
        correlations=quantiles.correlations(bins),
        distance_ranks=budgets.ranks(rows, known),
        distance_correlations=quantiles.selector_correlations(means),
        cost_benefit=costs.cost_benefit(study.costs, differences),
        composition=costs.composition(study.composition),
    )


# ---- in sentences --------------------------------------------------------------------------------------------------


def headline(study: Results, summary: Summary) -> list[str]:
    """What the study shows: a sentence by measure on the best-ranked method, then one by quantile experiment."""
    return [*_partial(study), *_on_budgets(summary), *_on_bins(summary)] or ["No cell of this study is finished."]


def _partial(study: Results) -> Iterator[str]:
    if n_pending := int(study.manifest.get("n_pending") or 0):
        n_done = len(study.results)
        yield f"Partial: {n_done:,} of {n_done + n_pending:,} cells are finished, and what follows may change."


def _on_budgets(summary: Summary) -> Iterator[str]:
    tested = summary.differences[~summary.differences["method"].isin(BASELINES)]
    for experiment, measure in dict.fromkeys(zip(tested["experiment"], tested["measure"], strict=True)):
        group = tested[(tested["experiment"] == experiment) & (tested["measure"] == measure)]
        names = list(dict.fromkeys(group["method"]))
        ranked = _mean_ranks(summary.ranks, experiment, measure)
        best = min(names, key=lambda name: ranked.get(name, np.inf))
        said = f"{MEASURES[measure].capitalize()}{_named(experiment)}: {standing(group[group['method'] == best])}."
        if best in ranked and RANDOM in ranked:
            said += ranking(ranked, names, best)
        yield said
    if not summary.means["method"].isin(BASELINES).all() and not len(tested):
        yield "No method can be compared with random picks: the study has none of the same budget."


def ranking(ranked: dict[str, float], names: list[str], best: str) -> str:
    """Where the best of several methods ranks, and what random rows do: its lead is no praise if random has it too."""
    own, randoms = ranked[best], ranked[RANDOM]
    level = bool(np.isclose(own, randoms))
    said = ""
    if len(names) > 1:
        tied = [name for name in names if name in ranked and np.isclose(ranked[name], own)]
        of = f"{len(names)} methods"
        if len(tied) > 1:
            who = f"All {of} tie" if len(tied) == len(names) else f"{_listed(tied)} tie for the best rank of {of}"
        else:
            who = f"It ranks best of {of}"
        beside = ", level with random" if level else ", but behind random" if own > randoms else ""
        said = f" {who}{beside}: {own:.1f} on average, random {randoms:.1f}."
    if LENGTH_MATCHED in ranked:
        gains = own < randoms and not level
        alone = ": their length alone does as much" if gains and ranked[LENGTH_MATCHED] <= own else ""
        said += f" Random rows of the same lengths rank {ranked[LENGTH_MATCHED]:.1f}{alone}."
    return said


def _mean_ranks(ranks: pd.DataFrame, experiment: str, measure: str) -> dict[str, float]:
    own = ranks[(ranks["experiment"] == experiment) & (ranks["measure"] == measure)]
    over_all = own[own["budget"] == ALL] if (own["budget"] == ALL).any() else own
    return dict(zip(over_all["method"], over_all["mean_rank"], strict=True))


def standing(own: pd.DataFrame) -> str:
    """One method's verdicts in words: `on 2 of 3 targets less beats random at every budget (…); on mmlu …`."""
    found: dict[str, list[str]] = {said: [] for said in _SAID}
    places = own.groupby(PLACE, sort=False)
    for (_, target, model), group in places:
        verdicts = list(group["verdict"])
        n = {verdict: verdicts.count(verdict) for verdict in (BETTER, WORSE, NOT_SHOWN)}
        name = f"{target} with {model}" if own["model"].nunique() > 1 else str(target)
        if 0 < max(n[BETTER], n[WORSE]) < len(verdicts):
            name += f": {' and '.join(str(n[verdict]) for verdict in (BETTER, WORSE) if n[verdict])} of {len(verdicts)}"
        found[_said(n, len(verdicts))].append(name)
    n_models = own["model"].nunique()
    of = f"{len(places)} {'target-and-model pair' if n_models > 1 else 'target'}{'s' * (len(places) > 1)}"
    parts: list[str] = []
    for said, names in found.items():
        who = "it" if parts else str(own["method"].iloc[0])
        if said in (_NONE_SHOWN, _UNTESTED) and len(names) == len(places):
            parts.append(f"{said} for {who} on {f'any of {of}' if len(places) > 1 else names[0]}")
        elif names and said in (_NONE_SHOWN, _UNTESTED):
            parts.append(f"on {_listed(names)} {said}" + (f" for {who}" if not parts else ""))
        elif names:
            parts.append(f"on {len(names)} of {of} {who} {said} ({', '.join(names)})")
    return "; ".join(parts)


_NONE_SHOWN, _UNTESTED = "no difference to random was shown", "nothing could be tested"
_SAID = (
    "beats random at every budget",
    "beats random at some budgets",
    "beats random at some budgets and is worse at others",
    "is worse than random at some budgets",
    "is worse than random at every budget",
    _NONE_SHOWN,
    _UNTESTED,
)


def _said(n: dict[str, int], n_budgets: int) -> str:
    if n[BETTER]:
        return _SAID[0] if n[BETTER] == n_budgets else _SAID[2] if n[WORSE] else _SAID[1]
    if n[WORSE]:
        return _SAID[4] if n[WORSE] == n_budgets else _SAID[3]
    return _NONE_SHOWN if n[NOT_SHOWN] else _UNTESTED


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _on_bins(summary: Summary) -> Iterator[str]:
    found = summary.correlations
    for experiment in dict.fromkeys(found["experiment"]):
        here = found[found["experiment"] == experiment]
        for measure in (QUERY_LOSS, TEST_LOSS):
            parts = []
            for series in quantiles.names(here):
                n_up, n_down, n = quantiles.growing(here[here["series"] == series], measure)
                if n:
                    falls = f" (falls on {n_down})" if n_down else ""
                    parts.append(f"{series} on {n_up} of {n} target{'s' if n != 1 else ''}{falls}")
            if parts:
                what = MEASURES[measure].capitalize()
                yield f"{what} grows with distance{_named(experiment)}: with {', '.join(parts)}."


def _named(experiment: str) -> str:
    _, _, name = experiment.partition(":")
    return f" ({name})" if name else ""


def caveats(study: Results, summary: Summary) -> list[str]:
    """What a reader has to know of how the numbers came about."""
    said = []
    rows = budgets.of_kind(study.results, BUDGET)
    methods = set(rows["method"])
    if len(rows) and RANDOM not in methods:
        said.append("No random baseline: methods are not compared with chance.")
    sized = summary.means[~summary.means["method"].isin(OF_ANY_SIZE)]
    if len(sized) and (sized["n_seeds"] == 1).all():
        said.append("One seed: no intervals over seeds, and the luck of one draw is in every number.")
    elif len(sized) and (sized["n_seeds"] == 1).any():
        said.append("Some cells have one seed, and no interval over seeds.")
    compared = summary.differences
    untested = compared[compared["verdict"] == NOT_TESTED]
    tested = compared.drop(untested.index)
    tested = tested[tested["measure"] != QUERY_LOSS]  # of which no example is kept
    if (hows := set(tested["how"])) and comparisons.BY_SEEDS in hows:
        some = "Some differences" if comparisons.BY_EXAMPLES in hows else "Differences"
        said.append(f"{some} to random are tested over seeds (Welch's t-test): there are no losses of single examples.")
    if len(untested):
        notes = untested["note"].value_counts(sort=False)
        why = "; ".join(f"{note} ({n:,})" if len(notes) > 1 else f"{note}" for note, n in notes.items())
        said.append(f"Of {len(compared):,} comparisons with random {len(untested):,} are not tested: {why}.")
    n_few = tested.loc[tested["how"] == comparisons.BY_EXAMPLES, "n"].min()
    if n_few < 30:
        said.append(f"A target has {int(n_few)} test examples: the bootstrap over so few says little.")
    if len(sized) and not sized["n_tokens"].notna().any():
        said.append("Supervised tokens are not known: methods are compared at equal examples only.")
    if not rows[SCORE].notna().any() and len(rows):
        said.append("No task metric: only losses are compared.")
    return said
