import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.store.shards import ShardIds, pack_ids, shard_name, unpack_ids

hex_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)


@settings(deadline=None)
@given(ids=st.lists(hex_ids))
def test_ids_round_trip(ids: list[str]) -> None:
    packed = pack_ids(ids)
    assert packed.shape == (len(ids), 16)
    assert unpack_ids(packed) == ids


@pytest.mark.parametrize("wrong", ["", "ab", "x" * 32, "ab " * 10 + "ab", "a" * 33])
def test_other_strings_are_no_ids(wrong: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        pack_ids(["ab" * 16, wrong])


def test_the_name_is_the_digest_of_the_ids_in_order() -> None:
    first, second = "00" * 16, "ff" * 16
    digest = hashlib.blake2b(bytes(16) + b"\xff" * 16, digest_size=16).hexdigest()
    assert shard_name(pack_ids([first, second])) == f"{digest}.safetensors"
    assert shard_name(pack_ids([second, first])) != f"{digest}.safetensors"


@settings(deadline=None)
@given(ids=st.lists(hex_ids, unique=True), data=st.data())
def test_the_assigned_order_is_kept(ids: list[str], data: st.DataObject) -> None:
    is_skipped = [data.draw(st.booleans()) for _ in ids]
    skipped = tuple((place, id_, "why") for place, id_ in enumerate(ids) if is_skipped[place])
    rows = pack_ids([id_ for place, id_ in enumerate(ids) if not is_skipped[place]])
    np.testing.assert_array_equal(ShardIds(rows, skipped).assigned, pack_ids(ids))
