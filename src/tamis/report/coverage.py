"""Which target rows took how much, and how near the picks come to each."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tamis.report.facts import Looked

N_SNIPPET = 160  # characters of a target row
_N_WITH_TEXT = 2000  # of more target rows the others are named alone


def coverage_facts(looked: "Looked") -> dict[str, Any]:
    """A line for each target row and each group of them; or how many picks each target has; or why neither is known.

    n_picks     picks that it took (`round_robin`: in its turns; else those that are nearest to it)
    best_pool   its highest similarity to any row of the pool; best, mean: to the picks; of a group the rows' mean
    """
    if not looked.targets:
        if looked.values is not None and len(looked.values) > 1:
            return {"absent": "No target rows were given beside the similarity, so that its rows have no names."}
        if looked.values is not None:
            return {"absent": f"The method ranks by {looked.ranked_by} alone: it does not look at a target."}
        return {"absent": "The method does not look at a target."}
    by_target = Counter(ranking for ranking in looked.rankings if ranking >= 0)
    targets = [
        {"name": name, "n_rows": len(range(len(looked.targets))[part]), "n_picks": by_target[number]}
        for number, (name, part) in enumerate(looked.parts)
    ]
    if looked.values is None:
        return {"absent": "The method looks at the mean of a target's rows, not at each of them.", "targets": targets}
    n_taken = Counter(taker for taker in looked.takers if taker is not None)
    picked = np.array(looked.picked)
    lines: list[dict[str, Any]] = []
    groups, turns = looked.targets.groups, looked.selector == "round_robin"
    names = [name for name, part in looked.parts for _ in range(len(looked.targets))[part]]
    for target, name in enumerate(names):
        values = looked.values[target]
        of_picks = values[picked].astype(np.float64)
        example = looked.targets[target]
        words = " ".join(m.content for m in example.messages if m.role != "system").split()
        lines.append(
            {
                "target": name,
                "group": groups[target],
                "id": example.row_id or example.id,
                "text": _clipped(words) if target < _N_WITH_TEXT else "",
                "n_picks": n_taken[target],
                "best_pool": float(values.max()),
                "best": float(of_picks.max()),
                "mean": float(of_picks.mean()),
            }
        )
    by_group: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for line in lines:
        by_group.setdefault((line["target"], line["group"]), []).append(line)
    return {
        "measure": looked.ranked_by,
        "by_turns": turns,
        "targets": targets,
        "groups": [_group(*names, some) for names, some in by_group.items()] if len(by_group) > len(targets) else [],
        "rows": lines,
    }


def _clipped(words: list[str]) -> str:
    text = " ".join(words[: N_SNIPPET + 1])  # more of them have no place
    return text if len(text) <= N_SNIPPET else f"{text[: N_SNIPPET - 1].rstrip()}…"


def _group(target: str, group: str | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "target": target,
        "group": group,
        "n_rows": len(rows),
        "n_picks": sum(row["n_picks"] for row in rows),
        "n_idle": sum(row["n_picks"] == 0 for row in rows),
        "best": float(np.mean([row["best"] for row in rows])),
        "best_pool": float(np.mean([row["best_pool"] for row in rows])),
    }
