import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.data.example import Example, Message, conversation_id, digest

TURN = Message("user", "Hi")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
CALLS = st.none() | st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2).map(tuple)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT, CALLS), max_size=4)


def test_an_id_that_stays_the_same_for_ever() -> None:
    """Stores are keyed by id: if this fails, every feature store out there is lost."""
    assert digest(b"") == "cae66941d9efbd404e4d88758ea67670"  # BLAKE2b-128 of nothing
    made = Example.of([TURN, Message("assistant", "Héllo")], source="s", row_id="7", group="g", file="f", row=3)
    assert made.id == digest(b'[[["user","Hi",null],["assistant","H\\u00e9llo",null]],null]')
    assert made.id == "02566f359a214e2d4fc3dba1bf87b23b"


def test_the_id_depends_on_the_conversation_alone() -> None:
    here = Example.of([TURN], source="a", file="x", row=1, row_id="1", group="g", line_digest="d")
    there = Example.of((TURN,), source="b", file="y", row=2)
    assert here.id == there.id


@pytest.mark.parametrize(
    "messages",
    [
        [Message("assistant", "Hi")],
        [Message("user", "Hi ")],
        [Message("user", "Hi", ({"name": "f"},))],
        [TURN, TURN],
        [],
    ],
)
def test_every_part_of_a_conversation_is_in_the_id(messages: list[Message]) -> None:
    assert conversation_id(messages) != conversation_id([TURN])


def test_tools_are_in_the_id_whatever_the_order_of_their_keys() -> None:
    assert conversation_id([TURN], ({"a": 1},)) != conversation_id([TURN])
    assert conversation_id([TURN], ({"a": 1, "b": 2},)) == conversation_id([TURN], ({"b": 2, "a": 1},))


@given(TURNS, TURNS)
def test_ids_are_equal_exactly_for_equal_conversations(one: list[Any], two: list[Any]) -> None:
    # Compared as JSON text, because to Python True == 1
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    first, second = (conversation_id([Message(*turn) for turn in turns]) for turns in (one, two))
    assert (first == second) == same
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_text() -> None:
    call = Message("assistant", "", ({"name": "é"},))
    assert Example.of([TURN, call], source="s").text == 'user: Hi\nassistant: [{"name": "é"}]'
