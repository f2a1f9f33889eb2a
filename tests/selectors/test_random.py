from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.selectors import random


@settings(deadline=None)
@given(sources=st.lists(st.sampled_from(["web", "code", "maths", "chat"]), min_size=1, max_size=40), data=st.data())
def test_balanced_takes_as_equal_numbers_as_the_pool_allows(sources: list[str], data: st.DataObject) -> None:
    n_examples = data.draw(st.integers(1, len(sources)))
    picks = random(len(sources), n_examples=n_examples, seed=data.draw(st.integers(0, 5)), sources=sources)
    taken = Counter(sources[index] for index in picks.indices)
    most = max(taken.values())
    for source, available in Counter(sources).items():
        assert taken[source] >= min(available, most - 1)  # fewer only where the source has no more


def test_uniform_takes_every_row_equally_often() -> None:
    times = np.zeros(10)
    for seed in range(2000):
        times[random(10, n_examples=3, seed=seed).indices] += 1
    assert np.abs(times - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)  # five standard deviations


def test_balanced_leaves_it_to_chance_which_row_and_which_source_comes_first() -> None:
    sources = ["a"] * 3 + ["b"] * 3
    firsts = {int(random(6, n_examples=1, seed=seed, sources=sources).indices[0]) for seed in range(100)}
    assert firsts == set(range(6))


def test_another_seed_gives_other_rows() -> None:
    assert random(1000, n_examples=10).indices.tolist() != random(1000, n_examples=10, seed=1).indices.tolist()


def test_refuses_sources_of_another_length() -> None:
    with pytest.raises(ValueError, match="each of 3 pool rows, got 2"):
        random(3, n_examples=1, sources=["a", "b"])
