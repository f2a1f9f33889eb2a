"""What the report of a selection tells, as plain data: numbers and clipped texts, from which alone its page is made.

Pools may have millions of rows: similarities are walked a target at a time, texts are read of picks and of a sample.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tamis.data.example import Example
from tamis.data.index import Labels
from tamis.data.near import NearDuplicates
from tamis.data.pool import Pool
from tamis.report.coverage import coverage_facts
from tamis.report.scores import score_facts

N_ROWS = 40  # picks that are shown
N_LABELS = 1000  # sources or groups that are told apart
N_SAMPLED = 2000  # pool rows whose length is taken
N_NEAR = 2000  # picks among which near-duplicates are looked for
NEAR = 0.8  # Jaccard similarity of 5-word shingles
N_CHARACTERS, N_TURNS = 6000, 20  # of a row that is shown
_N_PAIRS, _MOST_PAIRS = 12, 20_000
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a run looked at when it picked.

    pool       the candidates; `picked` are positions in it, in pick order
    scores     what the selector ranked each pick by; None for rows included by name
    rankings   which of the `parts` took each pick; −1 for rows included by name
    takers     position of the target row that took each pick, where targets compete
    targets    the target rows; none where the method looks at none
    values     similarity of targets and pool, where the method has one; a ranking has one row and no targets
    parts      name and rows of each target
    ranked_by  name of what the similarity is; reduce, of `top_k`, how its rows become one score
    """

    pool: Pool
    picked: Sequence[int]
    scores: Sequence[float | None]
    rankings: Sequence[int]
    takers: Sequence[int | None]
    targets: Pool
    values: Float[np.ndarray, "target pool"] | None
    parts: Sequence[tuple[str, slice]]
    selector: str
    ranked_by: str
    reduce: str


def selection_facts(
    looked: Looked, examples: Sequence[Example], n_supervised: Callable[[Example], int] | None, seed: int
) -> Facts:
    """Every section of the report, by name. `examples` are the picks; `n_supervised` counts tokens, where it can."""
    groups = looked.pool.labels("group")
    return {
        "sources": composition(looked.pool.labels("source"), looked.picked),
        "groups": [] if set(groups.counts()) == {None} else composition(groups, looked.picked),
        "scores": score_facts(looked),
        "coverage": coverage_facts(looked),
        "lengths": length_facts(looked.pool, examples, n_supervised, seed),
        "near": near_facts(examples),
        "picks": [
            {
                "score": score,
                "ranking": ranking,
                "taker": None if taker is None else _shown(looked.targets[taker]),
                **_shown(example),
            }
            for example, score, ranking, taker in zip(
                examples[:N_ROWS], looked.scores, looked.rankings, looked.takers, strict=False
            )
        ],
    }


def composition(labels: Labels, picked: Sequence[int]) -> list[Facts]:
    """Rows of each label in the pool and among the picks, and how many random picks would have; most picks first.

    `low` and `high`: the mean of the hypergeometric distribution ± 2.58 of its standard deviations, which random picks
    leave about once in a hundred times. Labels after the first thousand are one line.
    """
    n_pool, n_picked = labels.counts(), Counter(labels[i] for i in picked)
    order = sorted(n_pool, key=lambda label: (-n_picked[label], -n_pool[label], str(label)))
    counts = [(label, n_pool[label], n_picked[label]) for label in order[:N_LABELS]]
    if others := order[N_LABELS:]:
        counts.append((f"({len(others):,} others)", sum(n_pool[x] for x in others), sum(n_picked[x] for x in others)))
    lines = []
    for label, n_rows, n_taken in counts:
        share = n_rows / len(labels)
        mean = len(picked) * share
        spread = 2.58 * math.sqrt(mean * (1 - share) * (len(labels) - len(picked)) / max(1, len(labels) - 1))
        low, high = max(0, math.floor(mean - spread)), min(n_rows, len(picked), math.ceil(mean + spread))
        lines.append({"name": label, "n_pool": n_rows, "n_picked": n_taken, "low": low, "high": high})
    return lines


def length_facts(
    pool: Pool, examples: Sequence[Example], n_supervised: Callable[[Example], int] | None, seed: int
) -> Facts:
    """Histograms and quartiles of lengths of picks and pool; of a large pool a seeded sample is taken.

    Lengths are supervised tokens, else the characters of the turns that the loss counts.
    """
    positions = np.arange(len(pool))
    if len(pool) > N_SAMPLED:
        positions = np.sort(np.random.default_rng(seed).choice(len(pool), N_SAMPLED, replace=False))
    measure = n_supervised or _n_characters
    of_pool = np.array([measure(pool[int(i)]) for i in positions])
    of_picks = np.array([measure(example) for example in examples])
    longest = max(of_pool.max(), of_picks.max(), 1)
    shortest = max(1, min(of_pool.min(), of_picks.min()))
    edges = np.unique(np.round(np.geomspace(shortest, longest + 1, 31))) - 0.5  # a bin without a whole number is a gap
    return {
        "unit": "supervised tokens" if n_supervised else "characters of the replies",
        "n_sampled": len(positions),
        "n_pool": len(pool),
        "edges": edges.tolist(),
        "pool": np.histogram(np.maximum(of_pool, 1), edges)[0].tolist(),
        "picks": np.histogram(np.maximum(of_picks, 1), edges)[0].tolist(),
        "of_pool": np.quantile(of_pool, _QUARTERS).tolist(),
        "of_picks": np.quantile(of_picks, _QUARTERS).tolist(),
        "total": int(of_picks.sum()),
    }


def near_facts(examples: Sequence[Example]) -> Facts:
    """Near-duplicates among the first picks: pairs, rows that are in one, and the most alike pairs.

    Where nearly all are alike the search ends early, and `n_checked` says where.
    """
    checked = examples[:N_NEAR]
    near = NearDuplicates(checked, NEAR)
    pairs: list[tuple[float, int, int]] = []
    for position in range(len(checked)):
        pairs += [(value, other, position) for other, value in near.near(position).items()]
        near.add(position)
        if len(pairs) > _MOST_PAIRS:
            checked = checked[: position + 1]
            break
    pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
    return {
        "threshold": NEAR,
        "n_checked": len(checked),
        "n_pairs": len(pairs),
        "n_rows": len({row for _, *both in pairs for row in both}),
        "pairs": [
            {
                "similarity": value,
                "ranks": [a + 1, b + 1],
                "rows": [_shown(examples[a], 1500), _shown(examples[b], 1500)],
            }
            for value, a, b in pairs[:_N_PAIRS]
        ],
    }


def _n_characters(example: Example) -> int:
    return sum(len(m.content) for m in example.messages if m.role == "assistant" and m.in_loss)


def _shown(example: Example, n_characters: int = N_CHARACTERS) -> Facts:
    """A row with its origin and its first turns; `n_more` is what is left of characters and turns."""
    turns, left = [], n_characters
    for message in example.messages[:N_TURNS]:
        calls = "" if message.tool_calls is None else json.dumps(message.tool_calls, ensure_ascii=False)
        text = message.content + calls
        turns.append({"role": message.role, "text": text[:left], "n_more": max(0, len(text) - left)})
        left = max(0, left - len(text))
    return {
        "id": example.row_id or example.id,
        "source": example.source,
        "group": example.group,
        "file": example.file,
        "row": example.row,
        "turns": turns,
        "n_more_turns": max(0, len(example.messages) - N_TURNS),
    }
