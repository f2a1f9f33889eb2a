"""Ids as arrays: what is asked of them against plain lists, also where their first halves are alike."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import ids
from tamis.ids import Places, digest, first_places, pack, unpack

# Few values, so that ids repeat, share their first 64 bits, and end in zero bytes, which NumPy cuts off single ones
HALVES = st.sampled_from(["0" * 16, "0" * 14 + "ff", "ff" + "0" * 14, "80" + "0" * 14])
IDS = st.lists(st.builds(str.__add__, HALVES, HALVES), max_size=12)


@given(IDS)
def test_packed_ids_come_back_and_sort_as_their_digits_do(given_ids: list[str]) -> None:
    packed = pack(given_ids)
    assert unpack(packed) == given_ids
    assert unpack(np.sort(packed)) == sorted(given_ids)
    assert pack(packed) is packed
    assert digest(given_ids) == digest(packed)


@given(IDS, IDS)
def test_places_are_those_of_a_list(held: list[str], asked: list[str]) -> None:
    places = Places(pack(held))
    assert places.positions(pack(asked)).tolist() == [held.index(id_) if id_ in held else -1 for id_ in asked]
    slots = places.slots(pack(asked))
    known = np.flatnonzero(slots >= 0)
    positions, which = places.copies(slots[known])
    found = [(int(known[k]), int(position)) for k, position in zip(which, positions, strict=True)]
    assert found == [(k, i) for k, id_ in enumerate(asked) for i, other in enumerate(held) if other == id_]
    assert first_places(pack(held)).tolist() == [i for i, id_ in enumerate(held) if id_ not in held[:i]]


def test_the_digest_knows_order_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    three = ["0" * 32, "1" * 32, "2" * 32]
    assert digest(three) != digest(three[::-1])
    whole = digest(three)
    monkeypatch.setattr(ids, "_BLOCK_ROWS", 2)
    assert digest(three) == whole


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["0" * 31], "of 32 hexadecimal digits, got '0000000000000000000000000000000'"),
        (["0" * 30 + " 0"], "non-hexadecimal|with a space"),
        (["g" * 32], "non-hexadecimal"),
        (np.zeros(3, "S8"), r"packed ids of type S16, got an array of \|S8"),
    ],
)
def test_other_ids_are_refused(wrong: list[str] | np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(wrong)


def test_places_hold_no_object_for_each_id() -> None:
    packed = np.random.default_rng(0).bytes(16 * 50_000)
    given_ids = np.frombuffer(packed, "S16")
    tracemalloc.start()
    places = Places(given_ids)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert places.positions(given_ids[::7]).tolist() == list(range(0, 50_000, 7))
    assert held < 20 * 50_000
    assert peak < 60 * 50_000
