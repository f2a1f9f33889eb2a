"""Walking rankings under a budget: what must be taken, how much of a source at most and at least, what is too alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from tamis.errors import InputError


@runtime_checkable
class Near(Protocol):
    """What tells near-duplicates, such as `tamis.data.near.NearDuplicates`."""

    def clear(self) -> None:
        """Forget the rows added."""
        ...

    def add(self, position: int, /) -> None:
        """Add a row that was taken."""
        ...

    def has_near(self, position: int, /) -> bool:
        """Whether a near-duplicate of this row was added."""
        ...


@dataclass(frozen=True, slots=True)
class Constraints:
    """`cost` is what a pool row takes of the budget: 1, or its supervised tokens. `sources` labels the pool rows.

    include   pool positions taken first, whatever the rankings say
    quotas    of a source at most so much
    floors    of a source at least so much
    near      a row with a near-duplicate among those taken is passed over
    """

    cost: Callable[[int], int]
    sources: Sequence[str]
    include: Sequence[int] = ()
    quotas: Mapping[str, int] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)
    near: Near | None = None


@dataclass(frozen=True, slots=True)
class Walked:
    """`indices` in pick order; for each the ranking that took it (−1: included) and its place there.

    `passed_over` counts, by constraint, the rows that stood before the last pick and were not taken. `is_short`: the
    rankings ended before the budget was used up.
    """

    indices: list[int]
    takers: list[int]
    places: list[int]
    passed_over: dict[str, int]
    is_short: bool


def walk(
    rankings: Sequence[Int64[np.ndarray, " ranked"]], weights: Sequence[float], amount: int, constraints: Constraints
) -> Walked:
    """Take rows from the rankings, best first, until `amount` is used up.

    What the included rows leave of the amount is split by `weights` (largest remainders). In the order of their places
    rankings claim their rows; a row that two would claim goes to the one that ranks it higher, ties to the earlier, and
    the other goes on to its next. A ranking ends with the first row that no longer fits in its part. A row is passed
    over if a near-duplicate was taken, if it would exceed its source's quota (with it the source is closed), or if what
    then is left were too little for the floors. Picks of several rankings are put in the order of (place among its own
    picks)/(their number), so that a cut keeps the proportions.

    InputError for included rows that do not fit the amount or a quota.
    """
    claim = _Claims(constraints, amount)
    for row in constraints.include:
        claim.include(row)
    left = _split(amount - claim.spent, weights)
    is_open = [part > 0 for part in left]
    taken: list[list[tuple[int, int]]] = [[] for _ in rankings]
    n_places = max((len(ranking) for ranking in rankings), default=0)
    for place in range(n_places):
        for number, ranking in enumerate(rankings):
            if place >= len(ranking) or left[number] <= 0 or not (is_open[number] or claim.owed):
                continue
            row = int(ranking[place])
            if not is_open[number] and not claim.is_owed(row):
                continue
            # A ranking that has ended still serves the floors, with rows that fit.
            cost = constraints.cost(row)
            others = sum(part for part, open_ in zip(left, is_open, strict=True) if open_) - cost
            if not claim.allows(row, others):
                continue
            if cost > left[number]:
                is_open[number] = False
                continue
            claim.take(row)
            taken[number].append((row, place))
            left[number] -= cost
            is_open[number] = is_open[number] and left[number] > 0
        if not any(is_open) and not claim.owed:
            break
    order = sorted(
        (k / len(rows), number, row, place) for number, rows in enumerate(taken) for k, (row, place) in enumerate(rows)
    )
    n_included = len(constraints.include)
    return Walked(
        [*constraints.include, *(row for _, _, row, _ in order)],
        [-1] * n_included + [number for _, number, _, _ in order],
        [-1] * n_included + [place for _, _, _, place in order],
        claim.passed_over,
        any(is_open) or claim.owed > 0,
    )


class _Claims:
    """What is taken so far, and whether one more row may be."""

    def __init__(self, constraints: Constraints, amount: int) -> None:
        self._c, self._amount = constraints, amount
        if constraints.near is not None:
            constraints.near.clear()
        self._taken: set[int] = set()
        self._of_source: dict[str, int] = dict.fromkeys([*constraints.quotas, *constraints.floors], 0)
        self._closed: set[str] = set()
        self.spent = 0
        self.owed = sum(constraints.floors.values())
        self.passed_over: dict[str, int] = {}

    def include(self, row: int) -> None:
        source, cost = self._c.sources[row], self._c.cost(row)
        if self.spent + cost > self._amount:
            raise InputError(
                f"the budget of {self._amount:,} does not hold the {len(self._c.include):,} rows of pick.include; "
                "raise it, or include fewer"
            )
        if source in self._c.quotas and self._of_source[source] + cost > self._c.quotas[source]:
            raise InputError(
                f"pick.quotas.{source}: {self._c.quotas[source]:,} does not hold the rows of pick.include that are of "
                "this source; raise it, or include fewer"
            )
        self.take(row)

    def is_owed(self, row: int) -> bool:
        source = self._c.sources[row]
        return self._of_source.get(source, 0) < self._c.floors.get(source, 0)

    def allows(self, row: int, left_after: int) -> bool:
        if row in self._taken:
            return False
        source, cost = self._c.sources[row], self._c.cost(row)
        if source in self._c.quotas:
            if self._of_source[source] + cost > self._c.quotas[source]:
                self._closed.add(source)
            if source in self._closed:
                return self._pass(f"quota of {source}")
        if self.owed:
            served = min(cost, max(0, self._c.floors.get(source, 0) - self._of_source.get(source, 0)))
            if self.owed - served > left_after and not served:
                return self._pass("room kept for floors")
        if self._c.near is not None and self._c.near.has_near(row):
            return self._pass("near-duplicates of a pick")
        return True

    def take(self, row: int) -> None:
        source, cost = self._c.sources[row], self._c.cost(row)
        self._taken.add(row)
        if self._c.near is not None:
            self._c.near.add(row)
        self.spent += cost
        if source in self._of_source:
            before = max(0, self._c.floors.get(source, 0) - self._of_source[source])
            self._of_source[source] += cost
            self.owed -= before - max(0, self._c.floors.get(source, 0) - self._of_source[source])

    def _pass(self, reason: str) -> bool:
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1
        return False


def _split(amount: int, weights: Sequence[float]) -> list[int]:
    """The amount in parts proportional to the weights; what rounding leaves goes to the largest remainders."""
    exact = amount * np.asarray(weights, np.float64) / np.sum(weights)
    parts = np.floor(exact).astype(np.int64)
    parts[np.argsort(parts - exact, kind="stable")[: amount - int(parts.sum())]] += 1
    result: list[int] = parts.tolist()
    return result
