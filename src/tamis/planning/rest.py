"""The stages after the features: score, pick, write, as a run over some rows tells of all."""

from collections.abc import Sequence
from pathlib import Path

from tamis.methods import SELECTORS
from tamis.planning import flops as formulas
from tamis.planning import memory
from tamis.planning.after import After, line, run_after, some_rows
from tamis.planning.disk import similarity_bytes
from tamis.planning.forecast import Stage
from tamis.planning.found import is_scored
from tamis.planning.probe import made_up_rows
from tamis.planning.seen import Seen
from tamis.representations.compute import Recipe
from tamis.selectors import parse_budget

SMALL, LARGE = 512, 4096  # rows that are scored, picked from and written about
_TEXTS = 200  # whose length is looked at
_OF_TEXT = 200  # bytes beside a text, where it is kept


def rest(
    seen: Seen, recipes: tuple[Sequence[Recipe], Sequence[Recipe]], is_full: bool, scratch: Path
) -> tuple[list[Stage], float, dict[str, int]]:
    """The stages, the seconds of writing one feature row, and memory beyond the probe's peak, by what it is for.

    recipes: of the target's rows and the pool's. is_full: the workspace has every row of them.
    """
    n, selector = seen.n_usable, SELECTORS[seen.run.method.selector]
    dim = recipes[1][0].dim if recipes[1] else 1
    n_large = min(len(seen.pool), LARGE, made_up_rows(len(seen.pool), dim))
    large = _run(seen, n_large, recipes, scratch)
    small = _run(seen, SMALL, recipes, scratch) if n > n_large > SMALL else large

    def at(name: str) -> float:
        return line(getattr(small, name), getattr(large, name), small.n_pool, large.n_pool, n)

    n_picks = _n_picks(seen)
    flops, flops_before = (_selector_flops(seen, size, k, dim) for size, k in _sizes(n, n_picks, large))
    held, held_before = (_selector_bytes(seen, size, k, dim) for size, k in _sizes(n, n_picks, large))
    more = {"selector": max(0, held - held_before), "tokens": _tokens_bytes(seen)}
    stages = []
    if seen.makes is not None and "similarity" in selector.needs:
        n_rows = 1 if seen.makes == "ranking" else len(seen.target)
        products = formulas.similarity_flops(n_rows, n, dim, len(recipes[1])) if seen.makes == "rows" else 0.0
        stage = Stage("score", "similarity", found=n)
        if not is_full or not is_scored(seen.run):
            workers = seen.n_workers if seen.makes == "rows" else 1
            n_bytes = similarity_bytes(n_rows, n)
            stage = Stage("score", "similarity", n, flops=products, seconds=at("score") / workers, disk_bytes=n_bytes)
        stages.append(stage)
    rank = large.rank * flops / flops_before if flops_before else large.rank
    stages.append(Stage("pick", "", n, flops=flops, seconds=rank + at("pick")))
    text = _text_bytes(seen)
    out_bytes = round(large.out_bytes + max(0, n_picks - large.n_picks) * (text + _OF_TEXT))
    stages.append(Stage("write", "out", n_picks, seconds=at("write"), disk_bytes=out_bytes))
    return stages, large.row_seconds, more


def texts_bytes(seen: Seen) -> int:
    """Of the pool's texts in the temporary folder while they are in use."""
    return round((_text_bytes(seen) + _OF_TEXT) * len(seen.run.inputs.pool_rows))


def _sizes(n: int, n_picks: int, before: After) -> tuple[tuple[int, int], tuple[int, int]]:
    return (n, n_picks), (before.n_pool, before.n_picks)


def _run(seen: Seen, n_rows: int, recipes: tuple[Sequence[Recipe], Sequence[Recipe]], scratch: Path) -> After:
    rows = some_rows(seen.pool, n_rows, seen.config.seed)
    n_picks = max(1, min(len(rows), round(_n_picks(seen) * len(rows) / seen.n_usable)))
    return run_after(seen.config, seen.run.inputs, rows, n_picks, recipes, scratch / f"after {n_rows}")


def _n_picks(seen: Seen) -> int:
    """How many rows the budget has room for, of a token budget by the rows' mean."""
    budget = parse_budget(seen.config.pick.budget)
    n_examples = budget.n_examples(seen.n_usable)
    if n_examples is not None:
        return n_examples
    _ = seen.run.inputs.source  # without a model there are no tokens: an error that says so
    pool = seen.lengths["pool"]
    mean = max(1.0, pool.n_supervised / max(1, pool.n_rows - pool.n_skipped))
    return max(1, min(seen.n_usable, int(float(budget.value) / mean)))


def _selector_flops(seen: Seen, n_pool: int, n_picks: int, dim: int) -> float:
    method, options, n_targets = seen.run.method, seen.config.pick.options, len(seen.target)
    return formulas.selector_flops(
        method.selector, n_targets=n_targets, n_pool=n_pool, dim=dim, n_picks=n_picks, options=options
    )


def _selector_bytes(seen: Seen, n_pool: int, n_picks: int, dim: int) -> int:
    sizes = {"n_targets": max(1, len(seen.target)), "n_pool": n_pool, "dim": dim, "n_picks": n_picks}
    options, limit = seen.config.pick.options, seen.run.memory_bytes
    return memory.selector_bytes(seen.run.method.selector, sizes, options, limit)


def _tokens_bytes(seen: Seen) -> int:
    """Of tokens that the run keeps in memory, and the plan did not read."""
    pool = seen.lengths["pool"]
    n_more = min(memory.KEPT_ROWS, pool.n_rows) - len(pool.items)
    if n_more <= 0 or not pool.usable:
        return 0
    mean = sum(item.n_tokens for item in pool.usable) / len(pool.usable)
    return memory.held_tokens_bytes(n_more, round(mean * n_more))


def _text_bytes(seen: Seen) -> float:
    """Mean bytes of a row's text."""
    texts = some_rows(seen.pool, _TEXTS, seen.config.seed).texts
    return sum(len(text.encode()) for text in texts) / len(texts)
