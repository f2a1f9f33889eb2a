"""Selections made by hand, and what was looked at for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis.data.example import Example, Message
from tamis.data.pool import Pool
from tamis.data.selection import Selection
from tamis.report.facts import Looked, selection_facts


def example(
    source: str = "s", answer: str = "Yes.", row_id: str | None = None, row: int = 1, group: str | None = None
) -> Example:
    turns = [Message("user", f"Question {row}"), Message("assistant", answer)]
    return Example.of(turns, source=source, file="a.jsonl", row=row, row_id=row_id, group=group)


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "method": "less",
        "representation": "gradient",
        "selector": "top_k",
        "budget": "5%",
        "pool": {"n_rows": 20_000, "n_duplicates": 3, "digest": "d0", "keep_duplicates": False},
        "target": {"n_rows": 7, "digest": "d1"},
        "model": {"name": "m", "dtype": "float32", "max_tokens": 96, "template": "plain", "digest": "d2"},
        "seconds": {"warm up": 12.345},
        "versions": {"tamis": "0"},
        "stores": {"f0": {"dim": 8}},
        "similarity": "5e1",
        "constraints": [],
        "left_out": {},
        "kept": {},
        **changes,
    }


def looked_at(pool: Sequence[Example], picked: Sequence[int], **changes: Any) -> Looked:
    given: dict[str, Any] = {
        "pool": Pool.of(pool),
        "picked": picked,
        "scores": [0.25] * len(picked),
        "rankings": [0] * len(picked),
        "takers": [None] * len(picked),
        "targets": Pool.of([]),
        "values": None,
        "parts": [("target", slice(None))],
        "selector": "random",
        "ranked_by": "cosine similarity",
        "reduce": "group_mean_max",
    }
    return Looked(**{**given, **changes})


def selected(looked: Looked, **changes: Any) -> Selection:
    """The selection that a run which looked at these would make."""
    examples = [looked.pool[i] for i in looked.picked]
    counts = {"n_usable": len(looked.pool), "n_picked": len(examples)}
    facts = selection_facts(looked, examples, None, seed=0)
    none = [None] * len(examples)
    return Selection(examples, list(looked.scores), None, none, none, manifest(**{**counts, **changes}), facts)


def compared(
    pool: Sequence[Example], targets: Sequence[Example], picked: Sequence[int], takers: Sequence[int | None]
) -> Looked:
    """Picks of `top_k` by random similarities."""
    values = np.random.default_rng(0).random((len(targets), len(pool)), np.float32)
    kept = Pool.of(targets, keep_duplicates=True)
    return looked_at(pool, picked, targets=kept, values=values, takers=takers, selector="top_k")
