import numpy as np
import pytest

from tamis.selectors import top_k

TABLE = np.array(
    [
        [0.8, 0.1, 0.5, 0.3],
        [0.0, 0.3, 0.5, 0.3],
        [0.3, 0.6, 0.1, 0.2],
    ]
)


@pytest.mark.parametrize(
    ("groups", "reduce", "order", "scores"),
    [
        (["a", "a", "b"], "group_mean_max", [1, 2, 0, 3], [0.6, 0.5, 0.4, 0.3]),
        ([None, "b", None], "group_mean_max", [0, 2, 1, 3], [0.55, 0.5, 0.35, 0.3]),
        ([None, 0, None], "group_mean_max", [0, 2, 1, 3], [0.55, 0.5, 0.35, 0.3]),  # 0 is a label
        (None, "group_mean_max", [0, 2, 1, 3], [11 / 30, 11 / 30, 1 / 3, 4 / 15]),
        (["a", "a", "b"], "mean", [0, 2, 1, 3], [11 / 30, 11 / 30, 1 / 3, 4 / 15]),
        (["a", "a", "b"], "max", [0, 1, 2, 3], [0.8, 0.6, 0.5, 0.3]),
    ],
)
def test_hand_worked_table(groups: list[str] | None, reduce: str, order: list[int], scores: list[float]) -> None:
    picks = top_k(TABLE, n_examples=4, groups=groups, reduce=reduce)
    assert picks.indices.tolist() == order
    np.testing.assert_allclose(picks.scores, scores)


def test_refuses_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match="each of 3 targets, got 2"):
        top_k(TABLE, n_examples=1, groups=["a", "b"])


@pytest.mark.parametrize("groups", [None, ["a", "b", "c"]])
def test_refuses_an_unknown_reduce(groups: list[str] | None) -> None:
    with pytest.raises(ValueError, match="got 'median'"):
        top_k(TABLE, n_examples=1, groups=groups, reduce="median")


def test_picks_what_the_published_less_picks(golden) -> None:
    picks = top_k(golden.similarity, n_examples=300, groups=[target // 3 for target in range(12)])
    assert picks.indices.tolist() == golden.picks["less_top"]
    np.testing.assert_allclose(picks.scores[:20], golden.picks["less_scores_head"], rtol=1e-6)


def test_max_picks_what_the_published_greedy_picks(golden) -> None:
    picks = top_k(golden.similarity, n_examples=300, reduce="max")
    assert picks.indices.tolist() == golden.picks["doubly_greedy"]


def test_equal_columns_tie_also_where_the_last_stands_alone_in_its_block() -> None:
    similarity = np.random.default_rng(1).normal(size=(100, 10486)) * 0.1
    similarity[:, 0] += 1
    similarity[:, -1] = similarity[:, 0]
    assert top_k(similarity, n_examples=2).indices.tolist() == [0, 10485]
