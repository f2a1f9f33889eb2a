import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis.selectors import round_robin


def by_definition(similarity: np.ndarray, n_examples: int) -> list[int]:
    picks: list[int] = []
    for rank in range(n_examples):
        row = similarity[rank % len(similarity)]
        picks.append(max(set(range(len(row))) - set(picks), key=lambda position: (row[position], -position)))
    return picks


def test_hand_worked_table() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.2, 0.6, 0.6]])
    picks = round_robin(similarity, n_examples=4)
    assert picks.indices.tolist() == [0, 2, 1, 3]
    assert picks.scores.tolist() == [0.9, 0.6, 0.8, 0.6]


@settings(deadline=None)
@given(
    similarity=st.tuples(st.integers(1, 5), st.integers(1, 40)).flatmap(
        lambda shape: hnp.arrays(np.float32, shape, elements=st.integers(-20, 20).map(float))
    ),
    memory_bytes=st.integers(1, 240),
    data=st.data(),
)
def test_agrees_with_the_definition_in_any_memory(similarity: np.ndarray, memory_bytes: int, data) -> None:
    n_examples = data.draw(st.integers(1, similarity.shape[1]))
    picks = round_robin(similarity, n_examples=n_examples, memory_bytes=memory_bytes)
    assert picks.indices.tolist() == by_definition(similarity, n_examples)
    assert picks.scores.tolist() == [similarity[k % len(similarity), i] for k, i in enumerate(picks.indices)]


@pytest.mark.parametrize("alike", [0.0, 0.9, 1.0])
def test_agrees_with_the_definition_on_a_larger_pool(alike: float) -> None:
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal(400), rng.standard_normal((7, 400))
    similarity = (alike * common + (1 - alike) * own).astype(np.float32)
    similarity[3] = -similarity[3]  # a target that wants what the others leave
    assert round_robin(similarity, n_examples=400).indices.tolist() == by_definition(similarity, 400)


def test_picks_what_the_published_rds_picks(golden) -> None:
    assert round_robin(golden.similarity, n_examples=300).indices.tolist() == golden.picks["round_robin"]
