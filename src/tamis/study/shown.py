"""A study's tables as a page shows them: few columns, numbers with their intervals, verdicts in words."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tamis.study.budgets import DISTANCES, MEASURES, SCORE, budgets
from tamis.study.comparisons import BETTER, NOT_TESTED, WORSE
from tamis.study.matrix import NAMES, Cell, Shown, interval, label, matrix, number, rho_interval, value
from tamis.study.quantiles import BIN, names
from tamis.study.summary import Summary
from tamis.study.tables import RANDOM

AXES = {BIN: "decile", **DISTANCES}


def against_random(summary: Summary) -> Iterator[tuple[str, Shown]]:
    """By measure: each method minus random."""
    for measure, own in _by(summary.differences, "measure"):

        def cell(row: Any, measure: str = measure) -> Cell:
            css = {BETTER: "better", WORSE: "worse"}.get(row.verdict, "")
            bounds = interval(measure, row.low, row.high)
            if bounds and row.verdict == NOT_TESTED:
                bounds += " over examples only"
            small = f"{bounds}\n{row.verdict.removesuffix(' than random')}".strip()
            return Cell(value(measure, row.difference, sign=True), small, css)

        explained = f"{label(measure).capitalize()} minus that of random picks of the same budget, 95% interval, and "
        tested = own[own["verdict"] != NOT_TESTED]
        how = "; ".join(dict.fromkeys(tested["how"]))
        shown = f"what is shown after Holm's correction over all {len(tested):,} that were tested ({how})"
        explained += f"{shown if len(tested) else 'no test'}. {_direction(measure)}"
        title = f"{label(measure)}, minus random"
        yield measure, matrix(title, explained, "differences", own, "budget", list(dict.fromkeys(own["budget"])), cell)


def reached(summary: Summary) -> Iterator[tuple[str, Shown]]:
    """By measure: means over seeds."""
    for measure in MEASURES:
        own = summary.means[summary.means[measure].notna()]
        if len(own):

            def cell(row: Any, measure: str = measure) -> Cell:
                seeds = f"{row.n_seeds} seed{'s' if row.n_seeds != 1 else ''}"
                bounds = interval(measure, getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high"))
                return Cell(value(measure, getattr(row, measure)), bounds or seeds)

            columns = [*budgets(own), *(name for name in ("100%", "") if name in set(own["budget"]))]
            explained = f"Mean over seeds and its 95% interval (Student's t). {_direction(measure)}"
            yield (
                measure,
                matrix(label(measure), explained, "means", own, "budget", list(dict.fromkeys(columns)), cell),
            )


def rank_tests(ranks: pd.DataFrame) -> Shown:
    """Best method, Friedman's p and the critical difference, by measure and budget."""
    rows = []
    for (_, measure, budget), own in ranks.groupby(["experiment", "measure", "budget"], sort=False):
        first = own.sort_values("mean_rank", kind="stable").iloc[0]
        best = own.loc[np.isclose(own["mean_rank"], first["mean_rank"]), "method"]
        named = "all tie" if len(best) == len(own) > 1 else ", ".join(best)
        randoms = own.loc[own["method"] == RANDOM, "mean_rank"].mean()
        numbers = [(first["mean_rank"], 2), (randoms, 2), (first["n_blocks"], 0), (first["p"], 4)]
        numbers.append((first["critical_difference"], 2))
        cells = [Cell(label(str(measure))), Cell(str(budget), str(first["note"] or "")), Cell(named)]
        rows.append([*cells, *(Cell(number(float(x), digits)) for x, digits in numbers)])
    header = ["measure", "budget", "best", "its mean rank", "random's", "targets", "Friedman p", "critical difference"]
    explained = (
        "Ranks on each target (and model), 1 is best, ties share; mean ranks further apart than the critical difference"
        " (Nemenyi, 95%) differ. A large p says that the order may be chance."
    )
    return Shown("Mean ranks, tested", explained, "ranks", 3, header, rows)


def at_equal_tokens(summary: Summary, measure: str) -> Shown:
    """Values at the tokens that random had."""
    own = summary.equal_tokens
    most = own["n_seeds"].max()

    def cell(row: Any) -> Cell:
        bounds = interval(measure, row.difference_low, row.difference_high)
        small = "" if row.method == RANDOM else f"{value(measure, row.difference, sign=True)} {bounds}".strip()
        seeds = f"{row.n_seeds} of {most} seeds" if row.n_seeds < most else ""
        return Cell(value(measure, row.value), f"{small}\n{seeds}".strip())

    explained = (
        "Read off each seed's curve, linear in log tokens between its budgets and never beyond them, where all seeds of"
        " random have one; below it the difference to random with its 95% interval, one comparison at a time."
    )
    title = f"{label(measure)} at equal supervised tokens"
    return matrix(title, explained, "equal_tokens", own, "n_tokens", sorted(set(own["n_tokens"])), cell)


def with_distance(summary: Summary) -> Iterator[Shown]:
    """ρ of decile, or of a distance, with a measure: targets by series."""
    for (x, y), own in summary.correlations.groupby(["x", "y"], sort=False):
        what = MEASURES[str(y)]
        means = "Negative: farther data, lower score" if y == SCORE else f"Positive: farther data, higher {what}"
        explained = (
            f"Spearman's ρ over the bins, 95% interval (Bonett and Wright; not corrected for the {len(own)} of them)."
            f" {means}."
        )
        title = f"ρ of {AXES[str(x)]} and {what}"
        yield matrix(title, explained, "correlations", own, "series", names(own), _rho, lines=NAMES)


def distances(summary: Summary) -> Shown:
    """Distances that the picks of each method reach, and each method's own objective."""
    own = summary.means[summary.means[list(DISTANCES)].notna().any(axis=1)]
    rows = own.melt(["target", "model", "budget", "method"], list(DISTANCES), "what", "distance")
    explained = (
        "Means over seeds. The first two are measured in one space for all methods of a target and model; the objective"
        " is what a method itself makes small, in its own representation, and not to be compared between methods."
    )
    columns = [name for name in DISTANCES if own[name].notna().any()]
    shown = matrix(
        "Distances reached", explained, "means", rows, "what", columns,
        lambda row: Cell(number(row.distance)), lines=("target", "model", "budget", "method"),
    )  # fmt: skip
    return replace(shown, header=[DISTANCES.get(name, name) for name in shown.header])


def by_distance(summary: Summary) -> Shown:
    """ρ over methods of the distance their picks reach with a measure."""
    own = summary.distance_correlations
    own = own.assign(what=[f"{AXES[x]}, {MEASURES[y]}" for x, y in zip(own["x"], own["y"], strict=True)])
    explained = "Spearman's ρ over the methods of one budget: do those whose picks are nearer do better?"
    columns = list(dict.fromkeys(own["what"]))
    lines = (*NAMES, "budget")
    title = "ρ of the distance reached and what it gave"
    return matrix(title, explained, "distance_correlations", own, "what", columns, _rho, lines=lines)


def costs(summary: Summary) -> Shown:
    """Seconds, FLOPs and bytes beside gains."""
    own = summary.cost_benefit
    gains = [measure for measure in MEASURES if own[f"gain_{measure}"].notna().any()]
    lines = [name for name in ("target", "model") if own[name].nunique() > 1] + ["method"]
    header = [*lines, "selecting, s", "fine-tuning, s", "selecting, TFLOP", "selecting, MB"]
    header += [f"gain in {label(measure)}" for measure in gains]
    rows = []
    for _, row in own.iterrows():
        numbers = [row["selecting_seconds"], row["fine_tuning_seconds"], row["selecting_flops"] / 1e12]
        cells = [Cell(_rough(float(x))) for x in (*numbers, row["selecting_bytes"] / 1e6)]
        if row["unmeasured"]:
            cells[0] = Cell(cells[0].text, f"no time of: {row['unmeasured']}")
        cells += [Cell(value(measure, row[f"gain_{measure}"], sign=True)) for measure in gains]
        rows.append([*(Cell(str(row[name])) for name in lines), *cells])
    explained = (
        "Selecting: warm up, represent, score and pick, of one selection (the last budget). Fine-tuning: the sum over"
        " all budgets and seeds. Gain: how much better than random, mean over budgets; positive is better, for losses"
        " too. What was not measured is a dash, and so is every sum it belongs to."
    )
    return Shown("Costs and gains", explained, "cost_benefit", len(lines), header, rows)


def sources(summary: Summary) -> Shown:
    """Shares of sources among the picks, and how they compare with the pool's."""
    own = summary.composition

    def cell(row: Any) -> Cell:
        return Cell(f"{row.share:.1%}", f"× {row.ratio:.2f}" if row.ratio == row.ratio else "")

    explained = "Share of the picks, and that share over the source's share of the pool."
    lines = ("target", "model", "budget", "method")
    columns = sorted(set(own["source"]))
    return matrix("What was picked, by source", explained, "composition", own, "source", columns, cell, lines=lines)


def _by(table: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in dict.fromkeys(table[column]):
        yield str(name), table[table[column] == name]


def _direction(measure: str) -> str:
    return "Higher is better." if measure == SCORE else "Lower is better."


def _rough(value: float) -> str:
    """Three digits that count."""
    digits = 0 if value >= 100 or value == 0 else 2 - math.floor(math.log10(abs(value))) if value == value else 0
    return number(value, min(digits, 6))


def _rho(row: Any) -> Cell:
    return Cell(number(row.rho, 2), rho_interval(row))
