"""Rows in a terminal: as read, as rendered, tokens coloured by the loss mask."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.text import Text

from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.errors import printable

SUPERVISED, CONTEXT = "black on green", "dim"


def example_text(example: Example) -> Text:
    """An example's messages."""
    text = heading(example)
    for message in example.messages:
        text.append(f"{printable(message.role)}: ", "bold").append(printable(message.content, "\n\t"))
        for call in message.tool_calls or ():
            text.append(json.dumps(call, ensure_ascii=False))
        text.append("\n" if message.in_loss else "  [not in the loss]\n")
    return text


def heading(example: Example) -> Text:
    """Where an example is from and what it is called."""
    facts = [f"{example.file} row {example.row}", f"source {example.source}"]
    facts += [f"group {example.group}"] * (example.group is not None)
    facts += [f"id {example.row_id}"] * (example.row_id is not None)
    return Text(printable(" · ".join(facts)) + "\n", "bold")


def token_text(example: Example, encoded: Encoded, tokenizer: Any, *, colour: bool) -> Text:
    """An example's tokens, one after the other; those the loss counts on green, or in ⟦ ⟧ where there is no colour."""
    text = heading(example)
    for supervised, ids in _runs(encoded):
        shown = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        shown = printable(shown, "\n\t")
        text.append(f"⟦{shown}⟧" if supervised and not colour else shown, SUPERVISED if supervised else CONTEXT)
    n = len(encoded.input_ids)
    text.append(f"\n{n} tokens, {encoded.n_supervised} supervised, {encoded.n_truncated} cut off\n", "italic")
    return text


def _runs(encoded: Encoded) -> Iterator[tuple[bool, Sequence[int]]]:
    edges = np.flatnonzero(np.diff(encoded.mask.astype(np.int8))) + 1
    for ids, mask in zip(np.split(encoded.input_ids, edges), np.split(encoded.mask, edges), strict=True):
        yield bool(mask[0]), ids.tolist()
