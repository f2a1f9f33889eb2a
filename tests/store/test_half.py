"""`to_float32` against NumPy's own conversion, bit by bit."""

import numpy as np
import pytest

from tamis.store import FeatureStore
from tamis.store.half import to_float32

_EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = _EVERY[np.isfinite(_EVERY)].reshape(-1, 4)  # subnormals and both zeros among them


def bits(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).view(np.uint32)


def test_every_finite_half_is_exact_and_keeps_its_sign() -> None:
    assert FINITE.size == 63_488
    found = to_float32(FINITE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(bits(found), bits(FINITE.astype(np.float32)))


def test_room_is_used_again_whatever_it_held() -> None:
    room = np.full((len(FINITE), 4), np.nan, np.float32)
    for rows in (FINITE, FINITE[::-1][:7], FINITE[100:101]):
        found = to_float32(rows, room)
        assert np.shares_memory(found, room)
        np.testing.assert_array_equal(bits(found), bits(rows.astype(np.float32)))


@pytest.mark.parametrize("pick", [np.s_[::3], np.s_[::-1], np.s_[:, ::2], np.s_[5:5]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_need_not_be_contiguous(pick, order: str) -> None:
    rows = np.asarray(FINITE, order=order)[pick]
    np.testing.assert_array_equal(bits(to_float32(rows)), bits(rows.astype(np.float32)))
    room = np.empty((len(rows) + 1, 2 * rows.shape[1]), np.float32)[:, ::2]
    np.testing.assert_array_equal(bits(to_float32(rows, room)), bits(rows.astype(np.float32)))


def test_the_rows_given_stay_as_they_are() -> None:
    rows = FINITE.copy()
    to_float32(rows)
    np.testing.assert_array_equal(rows.view(np.uint16), FINITE.view(np.uint16))


def test_float32_passes_through_and_float64_is_rounded() -> None:
    rows = np.array([[0.1, np.inf], [np.nan, -0.0]], np.float32)
    assert to_float32(rows) is rows
    found = to_float32(np.array([[0.1, 1e-50]]))
    assert (found.dtype, found.tolist()) == (np.float32, [[np.float32(0.1), 0.0]])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 65_536.0])
def test_what_is_not_covered_cannot_be_written_to_a_store(store: FeatureStore, rows, value: float) -> None:
    """An infinity or a NaN would become a finite number, so none may come as far as that."""
    with np.errstate(over="ignore"):
        half = np.full((1, 4), value, np.float32).astype(np.float16)
    assert np.isfinite(to_float32(half)).all()
    [id_] = ids = rows.kept(rows.ids(9))[:1]
    for dtype in (np.float16, np.float32):
        bad = rows.features(ids).astype(dtype)
        with np.errstate(over="ignore"):
            bad[0, 1] = value
        with pytest.raises(ValueError, match=f"unit rows .* for example {id_}"), np.errstate(all="ignore"):
            store.write(ids, bad, rows.norm(ids), rows.n_tokens(ids), ids, {})
    assert store.todo(ids) == ids
