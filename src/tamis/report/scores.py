"""Where the picks are among the scores of the whole pool."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from tamis.selectors.picks import finite_rows, highest
from tamis.selectors.top_k import pool_scores

if TYPE_CHECKING:
    from tamis.report.facts import Looked

_N_BINS = 60
_SKEWED = 50  # positive scores whose highest is so many times the median have bins of equal ratio
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
_REDUCED = {
    "group_mean_max": "its mean over a group's target rows, of the group where that is highest",
    "mean": "its mean over the target rows",
    "max": "the highest of all target rows",
}
_NO_CUT = {
    "round_robin": "Target rows take turns and each takes the nearest row that is left, so that there is no one cut.",
    "knn_uniform": "The selector ranks by how many target rows count a row among their nearest; there is no one cut.",
    "knn_kde": "The selector ranks by the target rows near a row, less where the pool is dense; there is no one cut.",
    "unbalanced_transport": "The selector ranks by the mass a row is sent, and mass spreads; there is no one cut.",
}
_NO_SCORES = {
    "random": "Rows were drawn by chance: there are no scores.",
    "matching_pursuit": "A pursuit scores rows by what the ones taken before have left over: rows not taken have none.",
    "tagcos": "A coreset stands for the whole pool: what a row is worth depends on those taken before it, so that rows "
    "not taken have no score.",
}


def score_facts(looked: "Looked") -> dict[str, Any]:
    """For each target a histogram of the pool's scores with the picks it took; or why there are no scores.

    The score is the one `top_k` and `doubly_greedy` rank by; for other selectors the highest similarity to any target
    row. `cut` is the lowest score of a pick, `n_above` counts the rows from there up that nobody picked.
    """
    if looked.values is None:
        return {"absent": _NO_SCORES.get(looked.selector, _NO_SCORES["tagcos"])}
    is_picked = np.zeros(len(looked.pool), bool)
    is_picked[list(looked.picked)] = True
    picked, rankings = np.array(looked.picked), np.array(looked.rankings)
    panels = []
    for number, (name, part) in enumerate(looked.parts):
        scores = _pool_scores(looked, part)
        panels.append(_panel(name, scores, picked[rankings == number], is_picked))
    return {"score": _explained(looked), "no_cut": _NO_CUT.get(looked.selector), "panels": panels}


def _pool_scores(looked: "Looked", part: slice) -> Float[np.ndarray, " pool"]:
    """What the selector ranks by, by position."""
    assert looked.values is not None
    values = looked.values[part]
    if looked.selector == "top_k":
        groups = looked.targets[part].groups or None
        return pool_scores(values, groups, looked.reduce).astype(np.float64, copy=False)
    return highest(finite_rows(values)).astype(np.float64, copy=False)


def _panel(name: str, scores: np.ndarray, picked: np.ndarray, is_picked: np.ndarray) -> dict[str, Any]:
    is_log = bool(scores.min() > 0 and scores.max() > _SKEWED * np.median(scores))
    edges = np.histogram_bin_edges(np.log(scores) if is_log else scores, _N_BINS)
    if is_log:
        edges = np.exp(edges)
        edges[0], edges[-1] = scores.min(), scores.max()  # as they were, whatever rounding did
    of_picks = scores[picked]
    cut = float(of_picks.min()) if len(picked) else None
    return {
        "name": name,
        "n_picked": len(picked),
        "log": is_log,
        "edges": edges.tolist(),
        "pool": np.histogram(scores, edges)[0].tolist(),
        "picks": np.histogram(of_picks, edges)[0].tolist(),
        "of_pool": np.quantile(scores, _QUARTERS).tolist(),
        "of_picks": np.quantile(of_picks, _QUARTERS).tolist() if len(picked) else None,
        "cut": cut,
        "n_above": 0 if cut is None else int((~is_picked & (scores >= cut)).sum()),
    }


def _explained(looked: "Looked") -> str:
    assert looked.values is not None
    if len(looked.values) == 1 and not looked.targets:
        return f"a row's {looked.ranked_by}, by which the selector ranks"
    if looked.selector == "top_k":
        groups = set(looked.targets.groups)
        reduced = _REDUCED["mean" if looked.reduce == "group_mean_max" and len(groups) <= 1 else looked.reduce]
        return f"a row's {looked.ranked_by}: {reduced}; the selector ranks by it"
    ranks = "; the selector ranks by it" if looked.selector == "doubly_greedy" else ""
    return f"a row's {looked.ranked_by} to the target row that is nearest to it{ranks}"
