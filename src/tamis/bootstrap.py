"""The bootstrap of a run: inclusion probabilities of its pool rows, printed and written as a folder."""

import json
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.config import Config
from tamis.data.pool import Pool
from tamis.errors import InputError, printable
from tamis.methods import REPRESENTATIONS, SELECTORS
from tamis.remote import locate
from tamis.report.figures import inclusion_figure, save_figure
from tamis.report.html import render_page
from tamis.report.pages import check_place, writing_report
from tamis.scoring import Similarity, given_similarity
from tamis.selectors import Picks, parse_budget
from tamis.selectors.constraints import Constraints, walk
from tamis.settings import MAX_SEED
from tamis.stability import DOUBTFUL, FIRM, Inclusion, Select, inclusion

if TYPE_CHECKING:
    from tamis.pipeline import Pipeline

_LONG_SECONDS = 60  # of draws: more are announced


@dataclass(frozen=True, eq=False)
class Stability:
    """The inclusion of a run's pool rows, and what was drawn from; no projections where the rows have none."""

    inclusion: Inclusion
    pool: Pool
    n_targets: int
    n_groups: int
    n_projections: int

    @property
    def sentences(self) -> list[str]:
        """What a reader wants to know first."""
        found = self.inclusion
        n_firm, n_doubtful, n_outside = (int(rows.sum()) for rows in (found.firm, found.doubtful, found.outside))
        groups = f" within {self.n_groups:,} groups" if self.n_groups > 1 else ""
        seeds = f", {self.n_projections:,} projection seed" + "s" * (self.n_projections != 1)
        return [
            f"of {len(found.picks):,} picks {n_firm:,} are firm (picked in at least {FIRM}% of {found.n_draws:,} "
            f"draws), {n_doubtful:,} doubtful (below {DOUBTFUL}%); {n_outside:,} other rows are picked in at least "
            f"{DOUBTFUL}%",
            f"two draws share {found.shared:.0%} of their picks (Jaccard {found.jaccard:.2f}); "
            f"{self.n_targets:,} targets resampled{groups}" + seeds * (self.n_projections > 0),
        ]


def bootstrap(run: "Pipeline") -> Stability:
    """Inclusion probabilities of a run's pool rows under its method, budget and `score` settings.

    Filters apply as ever. Of several targets each is resampled by itself and keeps its part of the budget.

    InputError for what the bootstrap does not cover: methods that pick without similarities, rankings that are the same
    for every target, budgets in tokens, constraints, and seeds of projections where there is no projection.
    """
    config, selector = run.config, SELECTORS[run.method.selector]
    if reason := refusal(config):
        raise InputError(reason)
    check_seeds(config)
    if config.out is not None:
        check_place(locate(config.out))  # hours of work come before the writing
    scored, runs = _scored(run, selector.needs_rows)
    first = scored[0]
    n_examples = parse_budget(config.pick.budget).n_examples(len(first.pool))
    assert n_examples is not None
    parts = run.targets_of(first.targets or None)
    given: Sequence[str | None] = first.targets.groups or [None] * len(first.values)
    labels: list[Hashable] = []
    for number, (_, _, part) in enumerate(parts):
        labels += [(number, group) for group in given[part]]
    n_groups = len(set(labels))
    if n_groups == len(labels):
        if len(scored) == 1:
            raise InputError(
                "score.bootstrap: every group has one target row, so drawing anew changes nothing; give more rows a "
                "group, or rows without groups"
            )
        run.progress.note("every group has one target row: only the projection varies between draws")

    def select(similarity: np.ndarray, groups: Sequence[Hashable] | None, n: int, which: int) -> Picks:
        drawn = replace(scored[which], values=similarity)
        ranked = [runs[which].rank(drawn, drawn.pool, part, n) for *_, part in parts]
        if len(parts) == 1:
            return ranked[0]
        sources = [""] * len(drawn.pool)
        walked = walk([p.indices for p in ranked], [w for _, w, _ in parts], n, Constraints(lambda _: 1, sources))
        scores = [ranked[taker].scores[place] for taker, place in zip(walked.takers, walked.places, strict=True)]
        return Picks(np.array(walked.indices, np.int64), np.array(scores))

    runs = [copy(one) for one in runs]
    for one in runs:
        one.memory_bytes = run.memory_bytes // 2  # the other half is for the rows drawn anew
    with run.stage("bootstrap", 0):
        found = inclusion(
            [one.values for one in scored],
            labels,
            _announced(select, config.score.bootstrap, run.progress.note),
            n_examples,
            config.score.bootstrap,
            seed=config.seed,
            memory_bytes=run.memory_bytes // 2,
        )
    is_projected = run.method.representation == "gradient" and config.represent.projection != "none"
    return Stability(found, first.pool, len(labels), n_groups, len(scored) if is_projected else 0)


def _announced(select: Select, n_draws: int, note: Callable[[str], None]) -> Select:
    """The same, but its first call tells how long so many more will take, where that is long."""
    is_first = True

    def announced(similarity: np.ndarray, groups: Sequence[Hashable] | None, n_examples: int, which: int) -> Picks:
        nonlocal is_first
        start = time.perf_counter()
        picks = select(similarity, groups, n_examples, which)
        seconds = (time.perf_counter() - start) * n_draws
        if is_first and seconds > _LONG_SECONDS:
            note(f"bootstrap: {n_draws:,} draws will take about {seconds / 60:,.0f} minutes")
        is_first = False
        return picks

    return announced


def refusal(config: Config) -> str | None:
    """Why the bootstrap does not cover what these settings ask for; None where it does."""
    method, pick = config.method, config.pick
    what = f"score.bootstrap: method {method.name!r}"
    if "similarity" not in SELECTORS[method.selector].needs:
        return f"{what} picks without similarities to targets, so there is nothing to draw anew"
    if method.representation is not None and REPRESENTATIONS[method.representation].makes == "ranking":
        return f"{what} ranks the pool alike for every target, so there is nothing to draw anew"
    if method.representation is not None and "groups" in REPRESENTATIONS[method.representation].needs:
        return f"{what} scores by all target rows of a group at once, and drawing scores anew would not draw these"
    if parse_budget(pick.budget).kind == "tokens":
        return (
            f"score.bootstrap: expected a budget in rows, such as 500 or 5%, got {pick.budget}: it must be one for all"
        )
    for name in ("include", "quotas", "floors", "near_duplicates"):
        if getattr(pick, name):
            return f"score.bootstrap: it draws the method's own picks; leave out pick.{name}, which would change them"
    return None


def check_seeds(config: Config) -> None:
    """InputError where several projection seeds are asked for and there are none to vary."""
    name, settings, n_seeds = config.method.representation, config.represent, config.score.projection_seeds
    if n_seeds == 1:
        return
    what = "score.projection_seeds: "
    if name != "gradient":
        by = name or ("a similarity of your own" if config.pick.similarity else f"method {config.method.name!r}")
        raise InputError(f"{what}{by} has no projection, so it has no seeds to vary")
    if settings.projection == "none":
        raise InputError(f"{what}represent.projection is none, so it has no seeds to vary")
    if settings.projection_seed + n_seeds - 1 > MAX_SEED:
        raise InputError(f"{what}expected seeds up to {MAX_SEED}; lower represent.projection_seed")


def _scored(run: "Pipeline", needs_rows: bool) -> tuple[list[Similarity], list["Pipeline"]]:
    """The similarity under each projection seed, and a run whose selector looks at that projection's rows."""
    config, n_seeds = run.config, run.config.score.projection_seeds
    if config.pick.similarity is not None:
        path = locate(config.pick.similarity)
        return [given_similarity(path, run.inputs, run.candidates, run.memory_bytes)], [run]
    if n_seeds == 1:
        return [run.score()], [run]
    scored = run.score_seeds(n_seeds)
    if not needs_rows:
        return scored, [run] * n_seeds
    first = config.represent.projection_seed
    runs = []
    for rows in run.representing.rows("gradient", run.candidates, "pool", range(first, first + n_seeds)):
        runs.append(copy(run))
        runs[-1].pool_rows = rows
    return scored, runs


# ---- write ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Of one source: its picks, the firm and the doubtful among them, and rows outside that half of the draws pick."""

    source: str
    n_picked: int
    n_firm: int
    n_doubtful: int
    n_outside: int


def by_source(found: Inclusion, sources: Sequence[str]) -> list[SourceLine]:
    """Sources that have a pick or a row outside, most picks first."""
    names, codes = np.unique(np.array(sources, object), return_inverse=True)
    columns = [np.bincount(codes[rows], minlength=len(names)) for rows in _kinds(found)]
    lines = [SourceLine(str(name), *map(int, counts)) for name, *counts in zip(names, *columns, strict=True)]
    return sorted((line for line in lines if line.n_picked + line.n_outside), key=lambda line: -line.n_picked)


def _kinds(found: Inclusion) -> tuple[np.ndarray, ...]:
    return found.is_pick, found.firm, found.doubtful, found.outside


def write(run: "Pipeline", stability: Stability) -> None:
    """inclusion.parquet, inclusion.svg, .png, .pdf, report.html, config.yaml, manifest.json; the folder appears whole.

    inclusion.parquet has a line for each usable pool row, those most often picked first.
    """
    import pyarrow.parquet as pq

    if run.config.out is None:
        raise InputError("say where to write: --out FOLDER")
    found, pool = stability.inclusion, stability.pool
    n_picked, n_firm, n_doubtful, n_outside = (int(rows.sum()) for rows in _kinds(found))
    manifest = {
        **run.inputs.manifest(),
        "method": run.method.name,
        "budget": run.config.pick.budget,
        "n_usable": len(pool),
        "n_picked": n_picked,
        "bootstrap": {
            "n_draws": found.n_draws,
            "n_targets": stability.n_targets,
            "n_groups": stability.n_groups,
            "n_projections": stability.n_projections,
            "n_firm": n_firm,
            "n_doubtful": n_doubtful,
            "n_outside": n_outside,
            "shared": found.shared,
            "jaccard": found.jaccard,
        },
        "seconds": {name: round(seconds, 3) for name, seconds in run.seconds.items()},
    }
    probability, is_pick = found.probability, found.is_pick
    with writing_report(locate(run.config.out)) as folder:
        pq.write_table(_table(found, pool), folder / "inclusion.parquet")
        figure = inclusion_figure(probability[is_pick], probability[~is_pick], (DOUBTFUL / 100, FIRM / 100))
        page = render_page(
            "inclusion.html.j2",
            manifest=manifest,
            sentences=[sentence[0].upper() + sentence[1:] + "." for sentence in stability.sentences],
            sources=by_source(found, pool.sources),
            figure=save_figure(figure, folder, "inclusion"),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")


def _table(found: Inclusion, pool: Pool) -> Any:
    import pyarrow as pa

    rank = np.zeros(len(pool), np.int64)
    rank[found.picks.indices] = np.arange(1, len(found.picks) + 1)
    score = np.full(len(pool), np.nan)
    score[found.picks.indices] = found.picks.scores
    order = np.lexsort((np.where(rank, rank, len(pool) + 1), -found.counts))
    examples = [(e.id, e.row_id, e.file, e.row, e.source) for e in map(pool.__getitem__, map(int, order))]
    ids, row_ids, files, rows, sources = zip(*examples, strict=True)
    return pa.table(
        {
            "id": ids,
            "row_id": pa.array(row_ids, pa.string()),
            "file": files,
            "row": rows,
            "source": sources,
            "rank": pa.array(rank[order], mask=rank[order] == 0),
            "score": pa.array(score[order], mask=rank[order] == 0),
            "picked": rank[order] > 0,
            "inclusion": found.probability[order],
        }
    )


def report(run: "Pipeline") -> Iterator[str]:
    """The bootstrap of a run, written where `out` says; yields the lines to print."""
    stability = bootstrap(run)
    yield from stability.sentences
    if run.config.out is not None:
        write(run, stability)
        files = "inclusion.parquet, inclusion.svg, .png and .pdf, report.html, config.yaml, manifest.json"
        yield f"written to {printable(run.config.out)}: {files}"
