"""Rows in a terminal."""

import numpy as np
from rich.text import Span

from tamis.data.chat import Encoded
from tamis.data.example import Example, Message
from tamis.report.terminal import CONTEXT, SUPERVISED, example_text, heading, token_text

EXAMPLE = Example.of(
    [Message("user", "[b]Hi"), Message("assistant", "Ho")], source="s", file="a.jsonl", row=3, row_id="r", group="g"
)


class Letters:
    """A tokenizer whose ids are code points."""

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(map(chr, ids))


def encoded(text: str, mask: str) -> Encoded:
    return Encoded(np.array([*map(ord, text)], np.int32), np.array([char == "1" for char in mask]), 2)


def test_heading_says_where_a_row_is_from() -> None:
    assert heading(EXAMPLE).plain == "a.jsonl row 3 · source s · group g · id r\n"
    bare = Example.of([Message("assistant", "x")], source="s", file="a.jsonl", row=1)
    assert heading(bare).plain == "a.jsonl row 1 · source s\n"


def test_messages_stand_as_they_are() -> None:
    assert example_text(EXAMPLE).plain.splitlines()[1:] == ["user: [b]Hi", "assistant: Ho"]


def test_supervised_tokens_are_marked_by_colour_or_by_brackets() -> None:
    row = encoded("aXYbZ", "01101")
    coloured = token_text(EXAMPLE, row, Letters(), colour=True)
    start = len(heading(EXAMPLE).plain)
    assert coloured.plain[start:] == "aXYbZ\n5 tokens, 3 supervised, 2 cut off\n"
    assert coloured.spans[:4] == [
        Span(start, start + 1, CONTEXT),
        Span(start + 1, start + 3, SUPERVISED),
        Span(start + 3, start + 4, CONTEXT),
        Span(start + 4, start + 5, SUPERVISED),
    ]
    plain = token_text(EXAMPLE, row, Letters(), colour=False).plain[start:]
    assert plain == "a⟦XY⟧b⟦Z⟧\n5 tokens, 3 supervised, 2 cut off\n"
