"""What a run may pick from, and what its picks must keep to: filters before the selector, a walk after it."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tamis.config import Config
from tamis.data.near import NearDuplicates
from tamis.data.overlap import Leak, find_leaks
from tamis.data.pool import Pool
from tamis.errors import InputError
from tamis.inputs import Inputs
from tamis.remote import locate
from tamis.selectors import Budget, Picks, parse_budget
from tamis.selectors.constraints import Constraints, Walked, walk

_FIRST_RANKED = 1024  # of a nested method with a token budget; then twice as many, and so on


# ---- filters -------------------------------------------------------------------------------------------------------


def candidates(config: Config, inputs: Inputs, note: Callable[[str], None]) -> Pool:
    """The pool without what is excluded, too short or long, or leaked; each is reported with its reason."""
    pick = config.pick
    pool = inputs.pool
    left_out: dict[str, dict[int, str]] = {"excluded": {}, "of another length": {}, "leaked": {}}
    if pick.exclude:
        excluded = _named(_ids_in(pick.exclude), pool)
        left_out["excluded"] = {i: "in pick.exclude" for rows in excluded.values() for i in rows}
        if missing := sum(not rows for rows in excluded.values()):
            note(f"pick.exclude: {missing:,} of {len(excluded):,} ids are of no pool row")
    if pick.min_tokens is not None or pick.max_tokens is not None:
        low, high = pick.min_tokens or 0, pick.max_tokens or 10**18
        if config.model.name is None:
            raise InputError("pick.min_tokens and pick.max_tokens count tokens: say --model FOLDER or hub name")
        for position, example in enumerate(pool):
            n_tokens = inputs.n_supervised(example)
            if not low <= n_tokens <= high:
                left_out["of another length"][position] = f"{n_tokens:,} supervised tokens"
    found = {leak.position: describe(leak) for leak in leaks(inputs)}
    if pick.keep_leaks:
        inputs.tell("pool, leaked and kept all the same", [(pool[i], reason) for i, reason in found.items()])
    else:
        left_out["leaked"] = found
    reasons: dict[int, str] = {}
    for what, rows in left_out.items():
        new = {position: reason for position, reason in sorted(rows.items()) if position not in reasons}
        inputs.leave_out(f"pool, {what}", [(pool[position], reason) for position, reason in new.items()])
        reasons |= new
    for row, positions in _named(_ids_in(pick.include), pool).items():
        for position in positions:
            if position in reasons:
                raise InputError(f"pick.include: {row} is to be taken, but is no candidate: {reasons[position]}")
    left = pool.without(sorted(reasons))
    if not left:
        remedy = "; --keep-leaks leaves leaks in" if left_out["leaked"] else ""
        raise InputError(f"no candidate is left of {len(pool):,} pool rows: see the rows left out above{remedy}")
    return left


def leaks(inputs: Inputs) -> list[Leak]:
    """Pool rows that give away a target or evaluation row."""
    protected = [*(inputs.target if inputs.has_target else ()), *inputs.evaluation]
    return find_leaks(inputs.pool, protected) if protected else []


def describe(leak: Leak) -> str:
    """One line about a leak."""
    return f"shares {leak.words!r} with {leak.example.file} row {leak.example.row}"


def _ids_in(paths: Sequence[str]) -> list[str]:
    ids: dict[str, None] = {}
    for path in paths:
        try:
            lines = locate(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot read this list of ids ({error})") from error
        if lines and lines[0].lstrip().startswith(("{", "[")):
            raise InputError(
                f"{path}: expected one id or row_id a line, found JSON: write the ids alone, as `jq -r .id` does"
            )
        ids |= dict.fromkeys(line.strip() for line in lines if line.strip())
    return list(ids)


def _named(ids: Sequence[str], pool: Pool) -> dict[str, list[int]]:
    """The pool positions that each id, or row_id, names."""
    found: dict[str, list[int]] = {id_: [] for id_ in ids}
    for position, example in enumerate(pool) if ids else ():
        for name in {example.id, example.row_id}:
            if name in found:
                found[name].append(position)
    return found


# ---- the walk ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranking:
    """One target's ranking of the pool: `rank` gives that many picks; a smaller number is a prefix if `nested`."""

    name: str
    weight: float
    nested: bool
    rank: Callable[[int], Picks]


@dataclass(frozen=True, slots=True)
class Picked:
    """The walk, the rankings' picks that it went over, and a sentence for each constraint about what it did."""

    walked: Walked
    ranked: list[Picks]
    summary: list[str]

    def column(self, name: str) -> list[float | None]:
        """`scores` or `weights` of the picks; None for rows that were included."""
        values = [getattr(picks, name) for picks in self.ranked]
        pairs = zip(self.walked.takers, self.walked.places, strict=True)
        return [None if taker < 0 else float(values[taker][place]) for taker, place in pairs]


def pick(
    config: Config, inputs: Inputs, pool: Pool, rankings: Sequence[Ranking], note: Callable[[str], None]
) -> Picked:
    """Walk the rankings under budget and constraints.

    A method is asked for no more picks than are needed: for the budget, and while constraints leave some of it unused
    for twice as many. For a nested method that is the walk over its complete ranking.

    InputError naming the constraint that makes the budget impossible.
    """
    budget = parse_budget(config.pick.budget)
    n_examples = budget.n_examples(len(pool))
    if budget.kind == "examples" and budget.value > len(pool):
        note(f"the budget of {budget.value:,} exceeds the {len(pool):,} usable rows: all are taken")
    amount = int(budget.value) if n_examples is None else n_examples
    cost: Callable[[int], int] = lambda _: 1  # noqa: E731
    if budget.kind == "tokens":
        cost = lambda position: inputs.n_supervised(pool[position])  # noqa: E731
    constraints = _constraints(config, budget, amount, pool, cost)
    n_ranked = amount
    if budget.kind == "tokens":
        is_nested = all(ranking.nested for ranking in rankings)
        n_ranked = _FIRST_RANKED if is_nested else round(amount * len(pool) / max(1, sum(map(cost, range(len(pool))))))
    while True:
        n_ranked = min(max(n_ranked, 1), len(pool))
        ranked = [ranking.rank(n_ranked) for ranking in rankings]
        weights = [ranking.weight for ranking in rankings]
        walked = walk([picks.indices for picks in ranked], weights, amount, constraints)
        if not walked.is_short or n_ranked == len(pool):
            break
        n_ranked *= 2
    spent = sum(constraints.cost(row) for row in walked.indices)
    unit = "supervised tokens" if budget.kind == "tokens" else "rows"
    if not walked.indices:
        first = constraints.cost(int(ranked[0].indices[0]))
        raise InputError(
            f"expected a token budget that holds the first pick, which has {first:,} supervised tokens; got "
            f"{amount:,}. Raise it to {first}tok or more."
        )
    if walked.is_short and (walked.passed_over or constraints.floors) and spent < amount:
        reasons = "; ".join(f"{reason}: {_rows(n)} passed over" for reason, n in walked.passed_over.items())
        raise InputError(
            f"the budget of {amount:,} {unit} cannot be filled: {spent:,} can be taken ({reasons or 'floors'}). "
            "Lower the budget, or loosen that constraint"
        )
    summary = list(_summary(constraints, walked, rankings, amount, unit))
    for sentence in summary:
        note(sentence)
    return Picked(walked, ranked, summary)


def _constraints(config: Config, budget: Budget, amount: int, pool: Pool, cost: Callable[[int], int]) -> Constraints:
    pick = config.pick
    sources = pool.labels("source")
    quotas = {name: _part("quotas", name, text, budget, amount) for name, text in pick.quotas.items()}
    floors = {name: _part("floors", name, text, budget, amount) for name, text in pick.floors.items()}
    known = set(sources.counts())
    for kind, given in (("quotas", quotas), ("floors", floors)):
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1)
                raise InputError(
                    f"pick.{kind}: no candidate is of the source {name!r}; there are {', '.join(sorted(known))}"
                    + (f" (did you mean {near[0]}?)" if near else "")
                )
    for name, floor in floors.items():
        there = sum(cost(i) for i in np.flatnonzero(sources.codes == sources.names.index(name)).tolist())
        if there < floor:
            raise InputError(f"pick.floors.{name}: {floor:,} of {name} are asked for, and the pool has {there:,}")
        if floor > quotas.get(name, floor):
            raise InputError(f"pick.floors.{name}: {floor:,} is above pick.quotas.{name}, {quotas[name]:,}")
    if sum(floors.values()) > amount:
        raise InputError(f"pick.floors: {sum(floors.values()):,} together, above the budget of {amount:,}")
    included = _named(_ids_in(pick.include), pool)
    for name, positions in included.items():
        if not positions:
            raise InputError(f"pick.include: no pool row that can be used has the id or row_id {name!r}")
    near_rows = None if pick.near_duplicates is None else NearDuplicates(pool, pick.near_duplicates)
    include = list(dict.fromkeys(i for rows in included.values() for i in rows))
    return Constraints(cost, sources, include, quotas, floors, near_rows)


def _part(kind: str, name: str, text: str, budget: Budget, amount: int) -> int:
    part = parse_budget(text)
    if part.kind == "percent":
        return int(part.value * amount / 100)
    if (part.kind == "tokens") != (budget.kind == "tokens"):
        unit = "9000tok" if budget.kind == "tokens" else "500"
        raise InputError(f"pick.{kind}.{name}: expected {unit} or 20%, as the budget counts, got {text!r}")
    return int(part.value)


def _summary(
    constraints: Constraints, walked: Walked, rankings: Sequence[Ranking], amount: int, unit: str
) -> Iterator[str]:
    cost = {row: constraints.cost(row) for row in walked.indices}
    by_source: dict[str, int] = {}
    for row, n in cost.items():
        by_source[constraints.sources[row]] = by_source.get(constraints.sources[row], 0) + n
    if unit != "rows":
        yield f"budget of {amount:,} {unit}: {sum(cost.values()):,} used by {_rows(len(cost))}"
    if constraints.include:
        used = sum(cost[row] for row in constraints.include)
        yield f"included: {_rows(len(constraints.include))}" + (f", {used:,} {unit}" if unit != "rows" else "")
    for name, quota in constraints.quotas.items():
        passed = walked.passed_over.get(f"quota of {name}", 0)
        yield f"quota of {name}: {by_source.get(name, 0):,} of at most {quota:,} {unit}; {_rows(passed)} passed over"
    for name, floor in constraints.floors.items():
        yield f"floor of {name}: {by_source.get(name, 0):,} of at least {floor:,} {unit}"
    for reason in ("room kept for floors", "near-duplicates of a pick"):
        if reason in walked.passed_over:
            yield f"{reason}: {_rows(walked.passed_over[reason])} passed over"
    if len(rankings) > 1:
        for number, ranking in enumerate(rankings):
            rows = [row for row, taker in zip(walked.indices, walked.takers, strict=True) if taker == number]
            used = sum(cost[row] for row in rows)
            share = ranking.weight / sum(r.weight for r in rankings)
            yield f"target {ranking.name}, {share:.1%} of the budget: {_rows(len(rows))}" + (
                f", {used:,} {unit}" if unit != "rows" else ""
            )


def _rows(n: int) -> str:
    return f"{n:,} row" + "s" * (n != 1)
