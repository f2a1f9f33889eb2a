import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.selectors import Rows
from tamis.selectors.rows import blocks, check_features, check_finite, dot, equal_rows


class Lazy:
    """Rows that are read when they are asked for, and remember the largest read."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self.most = rows, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    def __getitem__(self, rows) -> np.ndarray:
        assert isinstance(rows, slice) or rows.dtype == np.int64
        read = self._rows[rows].copy()
        self.most = max(self.most, len(read))
        return read


TABLE = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.5, -0.5], [0.0, 0.0]], np.float32)


def test_arrays_memory_maps_and_lazy_rows_are_rows(tmp_path) -> None:
    np.save(tmp_path / "rows.npy", TABLE)
    for rows in (TABLE, np.load(tmp_path / "rows.npy", mmap_mode="r"), Lazy(TABLE)):
        assert isinstance(rows, Rows)
    assert not isinstance(5, Rows)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_are_all_rows_in_order_as_float32(dtype) -> None:
    found = list(blocks(Lazy(TABLE.astype(dtype)), block_bytes=16))  # two rows of 8 bytes
    assert [part for part, _ in found] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert {rows.dtype for _, rows in found} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), TABLE)


def test_a_block_holds_one_row_where_one_is_larger() -> None:
    assert [part for part, _ in blocks(TABLE, block_bytes=1)] == [slice(i, i + 1) for i in range(5)]


def test_float32_rows_in_memory_are_not_copied() -> None:
    assert all(np.shares_memory(rows, TABLE) for _, rows in blocks(TABLE, block_bytes=16))


def test_dot_with_a_vector_and_with_columns(monkeypatch) -> None:
    monkeypatch.setattr("tamis.selectors.rows.blocks", lambda features: blocks(features, block_bytes=16))
    vector, columns = np.array([1, -1], np.float32), np.array([[1, 0, 2], [-1, 1, 0]], np.float32)
    lazy = Lazy(TABLE)
    assert dot(lazy, vector).tolist() == [-1, -1, -1, 1, 0]
    np.testing.assert_array_equal(dot(lazy, columns), TABLE @ columns)
    assert lazy.most == 2


@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0]), min_size=2, max_size=2), min_size=1, max_size=20))
def test_equal_rows_are_known_by_the_first(rows: list[list[float]]) -> None:
    first, copies = equal_rows(np.array(rows))
    expected = [rows.index(row) for row in rows]  # -0.0 == 0.0 in Python too
    assert first.tolist() == expected
    assert copies.tolist() == [i for i, j in enumerate(expected) if i != j]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_refuses_features_without_rows_or_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least one of each, got shape \("):
        check_features(np.zeros(shape), 1)


@pytest.mark.parametrize("n_examples", [0, -1, 6])
def test_refuses_more_or_fewer_than_the_pool_can_give(n_examples: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to 5, the size of the pool; got {n_examples}"):
        check_features(TABLE, n_examples)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_names_the_value_that_is_not_finite(value: float, monkeypatch) -> None:
    monkeypatch.setattr("tamis.selectors.rows.blocks", lambda features: blocks(features, block_bytes=16))
    rows = TABLE.copy()
    rows[3, 1] = value  # the second row of the second block
    with pytest.raises(ValueError, match=rf"got {value} at \[3, 1\]"):
        check_features(Lazy(rows), 1)


def test_of_some_rows_the_place_in_the_pool_is_named() -> None:
    rows = TABLE.copy()
    rows[3, 1] = np.nan
    check_finite(rows, np.array([4, 0, 2]))
    with pytest.raises(ValueError, match=r"got nan at \[3, 1\]"):
        check_finite(Lazy(rows), np.array([4, 3, 2]))


def test_names_one_of_two_infinities_and_what_float32_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"got inf at \[0, 0\]"):
        check_features(np.array([[np.inf, -np.inf]]), 1)
    with pytest.raises(ValueError, match=r"got inf at \[1, 0\]"):
        check_features(np.array([[1.0], [1e39]]), 1)


def test_large_finite_values_are_finite() -> None:
    check_features(np.full((4, 4), 3e38, np.float32), 4)


def test_the_row_that_is_not_finite_is_named_in_any_order_of_positions() -> None:
    rows = np.zeros((4, 2), np.float32)
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"got nan at \[3, 1\]"):
        check_finite(rows, np.array([3, 1, 2, 0]))
