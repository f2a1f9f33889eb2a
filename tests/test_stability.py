"""Inclusion probabilities on arrays: hand-worked tables, the binomial law, and the laws of a stratified bootstrap."""

import itertools
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.selectors import Picks, round_robin, top_k
from tamis.stability import Inclusion, inclusion, resample


def by_top_k(similarity: np.ndarray, groups: Sequence[Hashable] | None, n_examples: int, _: int) -> Picks:
    return top_k(similarity, n_examples=n_examples, groups=groups)


def by_round_robin(similarity: np.ndarray, _groups: object, n_examples: int, _: int) -> Picks:
    return round_robin(similarity, n_examples=n_examples)


def found(counts: list[int], picks: list[int], n_draws: int) -> Inclusion:
    return Inclusion(np.array(counts), Picks(np.array(picks), np.zeros(len(picks))), n_draws)


def test_equal_targets_give_every_pick_probability_one() -> None:
    row = np.random.default_rng(0).random(50).astype(np.float32)
    result = inclusion([np.tile(row, (6, 1))], None, by_top_k, 7, 20)
    assert set(result.picks.indices) == set(np.argsort(-row)[:7])
    assert result.probability[result.picks.indices].tolist() == [1] * 7
    assert result.probability.sum() == 7
    assert (result.firm.sum(), result.doubtful.sum(), result.outside.sum()) == (7, 0, 0)
    assert (result.shared, result.jaccard) == (1, 1)


def test_votes_for_two_rows_follow_the_binomial_law() -> None:
    """A is picked where more than half of 5 draws are of the 3 targets that vote for it."""
    votes = np.array([[1, 0]] * 3 + [[0, 1]] * 2, np.float32)
    n_draws = 4000
    result = inclusion([votes], None, by_top_k, 1, n_draws)
    p = sum(
        np.prod([(0.6, 0.4)[vote] for vote in drawn])
        for drawn in itertools.product((0, 1), repeat=5)
        if drawn.count(0) > 2
    )
    assert result.probability[0] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n_draws))
    assert result.probability.sum() == pytest.approx(1)
    both = p * p + (1 - p) * (1 - p)
    assert result.shared == pytest.approx(both, abs=0.03)
    assert result.jaccard == pytest.approx(both / (2 - both), abs=0.03)


def test_firm_doubtful_and_outside_are_counted_at_their_thresholds() -> None:
    result = found([10, 9, 8, 5, 4, 5, 4], [0, 1, 2, 3, 4], 10)
    assert np.flatnonzero(result.firm).tolist() == [0, 1]
    assert np.flatnonzero(result.doubtful).tolist() == [4]
    assert np.flatnonzero(result.outside).tolist() == [5]
    assert result.probability.tolist() == np.array([1, 0.9, 0.8, 0.5, 0.4, 0.5, 0.4], np.float32).tolist()


def test_shared_picks_are_the_mean_over_every_two_draws() -> None:
    draws = [{0, 1, 2}, {0, 1, 3}, {0, 4, 5}, {0, 1, 2}]
    counts = [sum(row in draw for draw in draws) for row in range(6)]
    pairs = [len(a & b) for a, b in itertools.combinations(draws, 2)]
    result = found(counts, [0, 1, 2], len(draws))
    assert result.n_shared == pytest.approx(np.mean(pairs))
    assert result.shared == pytest.approx(np.mean(pairs) / 3)
    assert result.jaccard == pytest.approx(np.mean(pairs) / (6 - np.mean(pairs)))


def test_brute_force_over_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    seeds = [rng.random((7, 30)) for _ in range(2)]
    groups = ["a", "b", "a", "b", "b", "a", "c"]
    counts = np.zeros(30, int)
    for draw in range(9):
        rows = resample(groups, np.random.default_rng([5, draw]))
        counts[top_k(seeds[draw % 2][rows], n_examples=4, groups=groups).indices] += 1
    result = inclusion(seeds, groups, by_top_k, 4, 9, seed=5)
    assert result.counts.tolist() == counts.tolist()
    assert result.picks.indices.tolist() == top_k(seeds[0], n_examples=4, groups=groups).indices.tolist()


def test_select_is_told_which_similarity_was_drawn() -> None:
    told: list[int] = []

    def select(similarity: np.ndarray, groups: object, n_examples: int, which: int) -> Picks:
        assert (similarity == which).all()
        assert groups == ["g", "h"]
        told.append(which)
        return top_k(similarity, n_examples=n_examples)

    inclusion([np.full((2, 3), float(k)) for k in range(3)], ["g", "h"], select, 1, 7)
    assert told == [0, 0, 1, 2, 0, 1, 2, 0]  # the first is the selection itself


@given(st.lists(st.sampled_from([None, "a", "b", 3]), min_size=1, max_size=20), st.integers(0, 9))
def test_a_group_keeps_its_size_and_its_places(groups: list[Hashable], seed: int) -> None:
    drawn = resample(groups, np.random.default_rng(seed))
    assert [groups[target] for target in drawn] == groups
    for group in set(groups):
        mine = [target for target, place in zip(drawn, groups, strict=True) if place == group]
        assert mine == sorted(mine)


def test_every_target_is_drawn_alike_often() -> None:
    groups = ["a", "b", "a", "a"]
    drawn = np.array([resample(groups, np.random.default_rng([0, draw])) for draw in range(3000)])
    counts = np.bincount(drawn.ravel(), minlength=4)
    assert counts[1] == 3000
    assert counts[[0, 2, 3]] == pytest.approx(3000, abs=4 * np.sqrt(9000 * 2 / 9))


@pytest.mark.parametrize("select", [by_top_k, by_round_robin])
def test_draws_are_reproducible_and_the_first_of_many_are_those_of_few(select) -> None:
    similarity = np.random.default_rng(2).random((6, 40))
    few, again, other = (inclusion([similarity], None, select, 5, 8, seed=seed) for seed in (1, 1, 2))
    many = inclusion([similarity], None, select, 5, 9, seed=1)
    assert few.counts.tolist() == again.counts.tolist() != other.counts.tolist()
    assert few.counts.sum() == 8 * 5
    last = many.counts - few.counts
    assert (last.min(), last.max(), last.sum()) == (0, 1, 5)


@pytest.mark.parametrize("select", [by_top_k, by_round_robin])
def test_the_order_of_pool_rows_does_not_matter(select) -> None:
    rng = np.random.default_rng(3)
    similarity, order = rng.random((6, 40)), rng.permutation(40)
    plain, moved = (inclusion([s], None, select, 5, 25) for s in (similarity, similarity[:, order]))
    assert moved.counts.tolist() == plain.counts[order].tolist()


def test_a_mapped_similarity_in_little_memory_gives_the_same(tmp_path: Path) -> None:
    similarity = np.random.default_rng(4).random((5, 60)).astype(np.float32)
    np.save(tmp_path / "s.npy", similarity)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    kinds = set()

    def select(drawn: np.ndarray, groups: object, n_examples: int, which: int) -> Picks:
        kinds.add(type(drawn))
        return top_k(drawn, n_examples=n_examples)

    small = inclusion([mapped], None, select, 6, 12, memory_bytes=100)
    assert small.counts.tolist() == inclusion([similarity], None, by_top_k, 6, 12).counts.tolist()
    assert kinds == {np.memmap}
    assert (np.load(tmp_path / "s.npy") == similarity).all()


@pytest.mark.parametrize(
    ("shapes", "groups", "n_draws", "message"),
    [
        ([], None, 5, "one shape, got none"),
        ([(2, 3), (2, 4)], None, 5, "one shape"),
        ([(2, 3)], ["a"], 5, "one group label for each of 2 targets, got 1"),
        ([(2, 3)], None, 1, "at least two draws, and one for each similarity; got 1"),
        ([(2, 3)] * 3, None, 2, "one for each similarity; got 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    shapes: list[tuple[int, int]], groups: list[str] | None, n_draws: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inclusion([np.zeros(shape) for shape in shapes], groups, by_top_k, 1, n_draws)
