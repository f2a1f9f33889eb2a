"""Examples that are not held in memory come back as they were."""

import errno
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.data import index
from tamis.data.example import Example, Message
from tamis.data.index import Index
from tamis.data.pool import Pool
from tamis.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CALLS = st.none() | st.lists(st.dictionaries(TEXT, st.integers() | TEXT | st.none(), max_size=3), max_size=3).map(tuple)
MESSAGES = st.lists(st.builds(Message, TEXT, TEXT, CALLS, st.booleans()), min_size=1, max_size=3)
EXAMPLES = st.lists(
    st.builds(
        Example.of,
        MESSAGES,
        source=TEXT,
        file=TEXT,
        row=st.integers(0, 2**40),
        row_id=st.none() | TEXT,
        group=st.none() | TEXT,
        tools=CALLS,
        line_digest=TEXT,
        instance=st.none() | st.integers(1, 99),
    ),
    max_size=8,
)


def example(text: str, **origin: str) -> Example:
    return Example.of([Message("user", text)], source=origin.get("source", "s"), group=origin.get("group"))


@given(EXAMPLES, st.sampled_from([1, 40, 10_000]))
def test_every_field_comes_back(examples: list[Example], held_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_HELD_BYTES", held_bytes)  # all in the file; some; none
        held = Index(examples)
        assert list(held) == examples
        assert [held[i] for i in reversed(range(len(examples)))] == examples[::-1]
        assert held[1:-1] == examples[1:-1]


@given(EXAMPLES)
def test_columns_are_those_of_the_examples(examples: list[Example]) -> None:
    pool = Pool.of(examples, keep_duplicates=True)
    assert pool.ids == [e.id for e in examples]
    assert pool.sources == [e.source for e in examples]
    assert pool.groups == [e.group for e in examples]
    assert pool.places.tolist() == list(range(len(examples)))


def test_a_row_holds_no_memory_once_it_is_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its text nor its ids, labels or lengths; what is asked of all is mapped from the file."""
    monkeypatch.setattr(index, "_HELD_BYTES", 1 << 12)
    tracemalloc.start()
    pool = Pool.of(Index(example(f"{k}" * 50, source="ab"[k % 2]) for k in range(4000)))
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 4000 * 10
    assert not pool.packed_ids.flags.owndata
    assert pool.labels("source").counts() == {"a": 2000, "b": 2000}
    assert pool.labels("source").codes.itemsize == 4
    assert sum(1 for _ in pool) == 4000


@given(st.data(), st.sampled_from([1, 3, 1024]))
def test_rows_are_walked_in_the_order_asked_for(data: st.DataObject, block_rows: int) -> None:
    examples = [example(str(k)) for k in range(9)]
    positions = data.draw(st.lists(st.integers(0, 8), max_size=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_BLOCK_ROWS", block_rows)  # blocks of rows that stand together, and apart
        patch.setattr(index, "_HELD_BYTES", 100)  # the last ones in memory
        pool = Pool.of(examples)
        taken = pool.take(positions)
        assert list(taken) == [examples[k] for k in positions]
        assert list(taken.texts) == [examples[k].text for k in positions]
        assert taken.ids == [examples[k].id for k in positions]
        left = sorted(set(range(9)) - set(positions))
        assert pool.without(sorted(set(positions))).ids == [examples[k].id for k in left]
        for part in (slice(None, None, -2), slice(5, None, -1), slice(5, 0, -1), slice(2, 2), slice(7, None, 3)):
            assert list(pool[part][1:]) == examples[part][1:]
            assert pool[part].ids == [e.id for e in examples[part]]
            assert list(pool[part].labels("source")) == [e.source for e in examples[part]]
            assert pool[part].places.tolist() == list(range(9))[part]


def test_positions_out_of_range_are_refused() -> None:
    pool = Pool.of([example("a"), example("b")])
    for positions in ([2], [-1]):
        with pytest.raises(IndexError, match="positions from 0 to 1"):
            pool.take(positions)


def test_tool_calls_keep_the_order_of_their_keys() -> None:
    call = {"name": "f", "arguments": {"b": 1, "a": [1, {"z": 2, "y": 3}]}}
    (back,) = Index([Example.of([Message("assistant", "", (call,))], source="s")])
    assert back.messages[0].tool_calls is not None
    assert repr(back.messages[0].tool_calls[0]) == repr(call)


def test_more_can_be_appended_after_reading() -> None:
    held = Index([example("a")])
    assert held[0] == example("a")
    held.append(example("b"))
    assert [e.messages[0].content for e in held] == ["a", "b"]


def test_positions_are_those_of_a_list() -> None:
    held = Index([example("a"), example("b")])
    assert held[-1] == example("b")
    for wrong in (2, -3):
        with pytest.raises(IndexError):
            held[wrong]


def test_some_of_a_pool_are_a_pool() -> None:
    pool = Pool.of([example(text, source=text, group=text * 2) for text in "abcde"])
    part = pool.take([3, 1, 4])[1:]
    assert (part.sources, part.groups, part.places.tolist()) == (["b", "e"], ["bb", "ee"], [1, 4])
    assert part.ids == [example("b").id, example("e").id]
    assert list(part.take(np.array([1]))) == [example("e", source="e", group="ee")]


def test_a_full_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index, "_HELD_BYTES", 1)
    monkeypatch.setattr(index.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(index.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}: cannot keep .*No space left.*set TMPDIR"):
        Index([example("a")])
