import numpy as np
import pytest

from tamis.selectors import doubly_greedy

TABLE = np.array([[0.8, 0.1, 0.5, 0.6], [0.0, 0.7, 0.5, 0.6]])


def test_hand_worked_table() -> None:
    picks = doubly_greedy(TABLE, n_examples=4)
    assert picks.indices.tolist() == [0, 1, 3, 2]  # by the mean row 3 would come first
    assert picks.scores.tolist() == [0.8, 0.7, 0.6, 0.5]
    assert picks.n_supported is None


def test_a_target_near_to_much_of_the_pool_may_take_all() -> None:
    assert doubly_greedy(np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.0]]), n_examples=3).indices.tolist() == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_keeps_the_type_of_the_similarity(dtype: type) -> None:
    assert doubly_greedy(TABLE.astype(dtype), n_examples=2).scores.dtype == dtype


def test_picks_what_the_published_greedy_picks(golden) -> None:
    assert doubly_greedy(golden.similarity, n_examples=300).indices.tolist() == golden.picks["doubly_greedy"]
