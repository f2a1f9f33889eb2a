import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import TypeCheckError

from tamis.selectors import Picks, nearest_target
from tamis.selectors.picks import best


@pytest.mark.parametrize(
    ("indices", "scores", "n_supported", "message"),
    [
        ([1, 1], [0.0, 0.0], None, "distinct"),
        ([-1, 1], [0.0, 0.0], None, "negative"),
        ([0, 1], [0.0, 0.0], 3, "n_supported from 0 to 2, got 3"),
    ],
)
def test_picks_refuses_what_cannot_be(indices: list[int], scores: list[float], n_supported: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Picks(np.array(indices), np.array(scores), n_supported=n_supported)


def test_picks_refuses_scores_of_another_length() -> None:
    with pytest.raises((ValueError, TypeCheckError)):  # the shape check of the tests comes first
        Picks(np.array([0, 1]), np.array([0.0]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@settings(deadline=None)
@given(data=st.data())
def test_best_is_a_stable_descending_sort(dtype: type, data: st.DataObject) -> None:
    few = st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 1e-7, 0.5, 3.0, np.inf])
    values = st.one_of(few, st.floats(-1e4, 1e4, width=16))
    scores = data.draw(hnp.arrays(dtype, st.integers(1, 30), elements=values))
    n = data.draw(st.integers(1, len(scores)))
    expected = sorted(range(len(scores)), key=lambda position: (-scores[position], position))[:n]
    assert best(scores, n).tolist() == expected


def test_nearest_target_takes_the_lowest_of_equal_targets() -> None:
    similarity = np.array([[0.1, 0.5, 0.2], [0.9, 0.5, 0.1], [0.3, 0.4, 0.2]])
    assert nearest_target(similarity, np.array([2, 0, 1])).tolist() == [0, 1, 0]
