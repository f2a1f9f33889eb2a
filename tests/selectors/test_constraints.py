"""The walk: hand-worked, and its laws."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import InputError
from tamis.selectors.constraints import Constraints, walk


def ranking(*rows: int) -> np.ndarray:
    return np.array(rows, np.int64)


def rows_of(sources: str, **given) -> Constraints:
    return Constraints(cost=lambda _: 1, sources=list(sources), **given)


def test_without_constraints_it_is_the_ranking() -> None:
    walked = walk([ranking(3, 1, 2, 0)], [1.0], 3, rows_of("aaaa"))
    assert walked.indices == [3, 1, 2]
    assert (walked.takers, walked.places, walked.is_short) == ([0, 0, 0], [0, 1, 2], False)


def test_quota_floor_and_included_rows() -> None:
    """4 of 'aaabbc': 5 first; then at most 1 of a; at least 2 of b, for which place is kept."""
    given = rows_of("aaabbc", include=[5], quotas={"a": 1}, floors={"b": 2})
    walked = walk([ranking(0, 1, 2, 3, 4, 5)], [1.0], 4, given)
    assert walked.indices == [5, 0, 3, 4]
    assert walked.takers == [-1, 0, 0, 0]
    assert walked.passed_over == {"quota of a": 2}
    walked = walk([ranking(0, 1, 2, 3, 4, 5)], [1.0], 3, rows_of("aaabbc", floors={"b": 2}))
    assert walked.indices == [0, 3, 4]
    assert walked.passed_over == {"room kept for floors": 2}


def test_a_token_budget_is_the_longest_prefix() -> None:
    tokens = [50, 30, 40, 10]
    given = Constraints(cost=tokens.__getitem__, sources=list("aaab"))
    assert walk([ranking(0, 1, 2, 3)], [1.0], 100, given).indices == [0, 1]  # 2 does not fit, 3 would
    given = Constraints(cost=tokens.__getitem__, sources=list("aaab"), floors={"b": 5})
    assert walk([ranking(0, 1, 2, 3)], [1.0], 100, given).indices == [0, 1, 3]  # the floor is served all the same


def test_two_targets_share_by_weight_and_a_row_stays_where_it_ranks_higher() -> None:
    """Both want row 0, which the second ranks first: the first goes on to its next."""
    walked = walk([ranking(5, 0, 1, 2, 3, 4), ranking(0, 5, 4, 3, 2, 1)], [2.0, 1.0], 3, rows_of("aaaaaa"))
    assert sorted(zip(walked.indices, walked.takers, strict=True)) == [(0, 1), (1, 0), (5, 0)]
    assert walked.indices == [5, 0, 1]  # in the order of (place among its own)/(their number)


def test_a_cut_keeps_the_proportions_of_the_targets() -> None:
    walked = walk([ranking(0, 1, 2, 3, 4, 5), ranking(6, 7, 8, 9, 10, 11)], [2.0, 1.0], 6, rows_of("a" * 12))
    assert walked.indices == [0, 6, 1, 2, 7, 3]


@pytest.mark.parametrize(
    ("weights", "parts"), [([1.0, 2.0], [1, 3]), ([1.0, 1.0, 1.0], [2, 1, 1]), ([0.1, 0.1, 3.8], [0, 0, 4])]
)
def test_what_rounding_leaves_goes_to_the_largest_remainders(weights: list[float], parts: list[int]) -> None:
    rankings = [ranking(*range(10 * k, 10 * k + 10)) for k in range(len(weights))]
    takers = walk(rankings, weights, 4, rows_of("a" * 40)).takers
    assert [takers.count(k) for k in range(len(weights))] == parts


def test_a_floor_half_served_still_keeps_room() -> None:
    walked = walk([ranking(2, 0, 1, 3)], [1.0], 2, rows_of("aabb", floors={"b": 2}))
    assert walked.indices == [2, 3]


def test_near_duplicates_of_a_pick_are_passed_over() -> None:
    class Near:
        def __init__(self) -> None:
            self.added: list[int] = []

        def clear(self) -> None:
            self.added = []

        def add(self, position: int) -> None:
            self.added.append(position)

        def has_near(self, position: int) -> bool:
            return any(position // 2 == other // 2 for other in self.added)

    constraints = rows_of("aaaaaa", near=Near())
    for _ in range(2):  # nothing is left over from a walk before
        walked = walk([ranking(0, 1, 3, 2, 4, 5)], [1.0], 3, constraints)
        assert walked.indices == [0, 3, 4]
        assert walked.passed_over == {"near-duplicates of a pick": 2}


def test_included_rows_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"budget of 1 does not hold the 2 rows of pick.include"):
        walk([ranking(0, 1)], [1.0], 1, rows_of("aa", include=[0, 1]))
    with pytest.raises(InputError, match=r"pick.quotas.a: 1 does not hold"):
        walk([ranking(0, 1)], [1.0], 2, rows_of("aa", include=[0, 1], quotas={"a": 1}))


@settings(deadline=None, max_examples=200)
@given(
    sources=st.text("abc", min_size=1, max_size=12),
    n_targets=st.integers(1, 3),
    seed=st.integers(0, 1000),
    cost_is_one=st.booleans(),
    data=st.data(),
)
def test_laws(sources: str, n_targets: int, seed: int, cost_is_one: bool, data) -> None:
    rng = np.random.default_rng(seed)
    n_pool = len(sources)
    cost = [1] * n_pool if cost_is_one else rng.integers(1, 9, n_pool).tolist()
    rankings = [rng.permutation(n_pool) for _ in range(n_targets)]
    weights = rng.uniform(0.5, 3, n_targets).tolist()
    amount = data.draw(st.integers(1, sum(cost)))
    quotas = {s: data.draw(st.integers(0, 12)) for s in data.draw(st.sets(st.sampled_from(sources)))}
    there = {s: sum(c for c, of in zip(cost, sources, strict=True) if of == s) for s in set(sources)}
    floors = {s: data.draw(st.integers(0, min(there[s], quotas.get(s, 99), 3))) for s in set(sources[:2])}
    given_constraints = Constraints(cost.__getitem__, list(sources), quotas=quotas, floors=floors)
    walked = walk(rankings, weights, amount, given_constraints)
    spent = sum(cost[row] for row in walked.indices)
    assert len(set(walked.indices)) == len(walked.indices)
    assert spent <= amount
    for source, quota in quotas.items():
        assert sum(cost[row] for row in walked.indices if sources[row] == source) <= quota
    for row, taker, place in zip(walked.indices, walked.takers, walked.places, strict=True):
        assert rankings[taker][place] == row
    if cost_is_one and n_targets == 1 and sum(floors.values()) <= amount and not walked.is_short:
        assert len(walked.indices) == amount
        for source, floor in floors.items():
            assert sum(sources[row] == source for row in walked.indices) >= floor
        if not floors and not quotas:
            assert walked.indices == rankings[0][:amount].tolist()


def test_one_ranking_with_quotas_and_floors_is_the_first_feasible_set_in_ranking_order() -> None:
    """Against brute force: of all feasible sets of 4, the one that is lexically first in the ranking's places."""
    from itertools import combinations

    sources = "abcabcab"
    for order in list(permutations(range(8)))[::611]:
        quotas, floors = {"a": 2}, {"c": 1, "b": 1}
        feasible = [
            places
            for places in combinations(range(8), 4)
            if sum(sources[order[p]] == "a" for p in places) <= 2
            and any(sources[order[p]] == "c" for p in places)
            and any(sources[order[p]] == "b" for p in places)
        ]
        walked = walk([ranking(*order)], [1.0], 4, rows_of(sources, quotas=quotas, floors=floors))
        assert tuple(walked.places) == min(feasible)
