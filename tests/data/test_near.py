import random

import pytest

from tamis.data.example import Example, Message
from tamis.data.near import NearDuplicates, shingles


def row(text: str) -> Example:
    return Example.of([Message("user", text), Message("assistant", "ok")], source="made up")


def words(*numbers: int) -> str:
    return " ".join(f"w{k}" for k in numbers)


def pair(n_words: int, n_changed: int) -> tuple[Example, Example, float]:
    """Two rows of which the second ends in other words, and their Jaccard similarity."""
    one = row(words(*range(n_words)))
    other = row(words(*range(n_words - n_changed), *range(900, 900 + n_changed)))
    a, b = shingles(one), shingles(other)
    return one, other, len(a & b) / len(a | b)


def test_the_near_ones_are_named_with_their_similarity() -> None:
    one, other, jaccard = pair(100, 4)
    near = NearDuplicates([one, row(words(*range(500, 600))), one, other], 0.8)
    for position in range(3):
        near.add(position)
    assert near.near(3) == {0: pytest.approx(jaccard), 2: pytest.approx(jaccard)}
    assert near.near(1) == {1: 1.0}
    assert near.near(2) == {0: 1.0, 2: 1.0}


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_pairs_on_either_side_of_the_threshold(threshold: float) -> None:
    n_found = n_near = 0
    for n_words in range(60, 160):
        for n_changed in (1, 3, 8, 20):
            one, other, jaccard = pair(n_words, n_changed)
            near = NearDuplicates([one, other], threshold)
            near.add(0)
            if near.has_near(1):
                assert jaccard >= threshold  # never a false pair
                n_found += 1
            n_near += jaccard >= threshold
    assert n_near > 40
    assert n_found >= 0.97 * n_near  # MinHash may miss one in a hundred


def test_equal_words_and_short_rows() -> None:
    near = NearDuplicates([row("a b"), row("A, b!"), row("a c"), row(""), row(words(*range(50)))], 1.0)
    near.add(0)
    assert near.has_near(1)
    assert not near.has_near(2)
    assert not near.has_near(3)
    near.add(4)
    assert near.has_near(4)
    near.clear()
    assert not near.has_near(1)


def test_says_the_same_again() -> None:
    rng = random.Random(0)
    rows = [row(words(*(rng.randrange(30) for _ in range(40)))) for _ in range(60)]

    def run() -> list[bool]:
        near = NearDuplicates(rows, 0.05)
        found = []
        for position in range(len(rows)):
            found.append(near.has_near(position))
            near.add(position)
        return found

    assert run() == run()


@pytest.mark.parametrize("threshold", [0.0, 1.5, -1.0])
def test_refuses_thresholds_that_make_no_sense(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold above 0 and up to 1, got {threshold}"):
        NearDuplicates([], threshold)


@pytest.mark.parametrize(("n_shared", "n_all"), [(7, 100), (29, 50), (7, 25), (4, 5), (1, 3)])
def test_a_pair_at_the_threshold_counts(n_shared: int, n_all: int) -> None:
    near = NearDuplicates([], n_shared / n_all)
    shared = {f"s{k}" for k in range(n_shared)}
    left, right = shared | {f"l{k}" for k in range(n_all - n_shared)}, shared
    assert near._are_near(frozenset(left), frozenset(right))
    assert not near._are_near(frozenset(left | {"x"}), frozenset(right))
