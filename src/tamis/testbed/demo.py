"""`tamis demo`: the whole of tamis on the embedded model and pool, where the right answer is known."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tamis.data.example import Example
from tamis.data.selection import writing_folder
from tamis.inputs import Inputs
from tamis.progress import Progress, Silent
from tamis.report.html import render_table
from tamis.testbed import MODEL, MODELS, SKILLS
from tamis.testbed.experiment import EPOCHS, Experiment

SEEDS = (0, 1, 2)
DEFAULT_SKILL = "capitals"

HEADER = ("trained on", "rows", "with the skill", "× its share", "loss on the target's test set, by seed", "mean")


@dataclass(frozen=True, slots=True)
class Line:
    """One training set: how many rows, how many show the wanted skill rightly, and the test loss after each seed."""

    name: str
    n_rows: int
    n_wanted: int
    test_losses: tuple[float, ...]

    def cells(self, pool_share: float) -> tuple[str, ...]:
        """The line as text."""
        by_seed = "  ".join(f"{loss:.3f}" for loss in self.test_losses)
        mean = f"{np.mean(self.test_losses):.3f}"
        if not self.n_rows:
            return (self.name, "0", "", "", by_seed, mean)
        share = self.n_wanted / self.n_rows
        return (self.name, f"{self.n_rows:,}", f"{share:.1%}", f"{share / pool_share:.1f}", by_seed, mean)


def run_demo(out: Path, skill: str | None = None, progress: Progress | None = None, learner: str = "small") -> str:
    """Select from the testbed by random, BM25 and LESS; fine-tune on each, on all, on nothing; returns the summary.

    The small model selects; `learner` names the model that is fine-tuned. Folder `out` gets data/, workspace/, the
    selections random-<seed>/, bm25/ and less/, and report/.
    """
    start, progress, skill = time.perf_counter(), progress or Silent(), skill or DEFAULT_SKILL
    experiment = Experiment(out, skill, progress=progress)
    inputs = Inputs(experiment.config("less"), lambda _: None)

    def pick(method: str, name: str, seed: int = 0) -> list[Example]:
        return experiment.pick(experiment.config(method, seed=seed, out=name))

    by_less, by_bm25 = pick("less", "less"), pick("bm25", "bm25")
    by_random = [pick("random", f"random-{seed}", seed) for seed in SEEDS]
    pool = list(inputs.pool)
    trainings: list[tuple[str, list[tuple[int, list[Example]]]]] = [
        ("nothing", [(0, [])]),
        ("random", list(zip(SEEDS, by_random, strict=True))),
        ("bm25", [(seed, by_bm25) for seed in SEEDS]),
        ("less", [(seed, by_less) for seed in SEEDS]),
        ("all", [(0, pool)]),
    ]
    n_tokens = sum(e.n_tokens for _, runs in trainings for _, rows in runs for e in experiment.encode(rows))
    lines = []
    with progress.stage("fine-tune and test", n_tokens * EPOCHS) as advance:
        for name, runs in trainings:
            found = [
                experiment.test_loss(rows, seed=seed, model=MODELS[learner], advance=advance) for seed, rows in runs
            ]
            examples = [example for _, rows in runs for example in rows]
            n_wanted = experiment.n_wanted(examples)
            lines.append(Line(name, len(examples) // len(found), n_wanted // len(found), tuple(found)))

    pool_share = experiment.n_wanted(pool) / len(pool)
    return _summary(out, skill, learner, lines, pool_share, time.perf_counter() - start)


def _summary(out: Path, skill: str, learner: str, lines: Sequence[Line], pool_share: float, seconds: float) -> str:
    by_name = {line.name: line for line in lines}
    less, rivals = by_name["less"], by_name["random"]
    below = sum(mine < theirs for mine, theirs in zip(less.test_losses, rivals.test_losses, strict=True))
    facts = [
        f"The wanted skill is {skill!r}, one of {len(SKILLS)}; {pool_share:.1%} of the pool show it rightly. The "
        "target is 16 examples of it, on topics and in words that the pool lacks. Every method picks 5% of the pool; "
        f"every training takes {EPOCHS} epochs, so training on all takes 20 times the steps.",
        "LESS, which asks the model's own gradients, takes the skill at "
        f"{less.n_wanted / less.n_rows / pool_share:.1f} times its share; "
        f"its test loss is below random's for {below} of {len(SEEDS)} seeds.",
    ]
    if MODELS[learner] != MODEL:
        facts.append(f"The small model selected; the {learner} one was trained on the picks and tested.")
    cells = [line.cells(pool_share) for line in lines]
    with writing_folder(out / "report") as folder:
        page = render_table("tamis demo: did the model's own gradients find the right examples?", facts, HEADER, cells)
        (folder / "report.html").write_text(page, encoding="utf-8")
        record = {
            "skill": skill,
            "learner": learner,
            "pool_share": pool_share,
            "seconds": seconds,
            "lines": [asdict(x) for x in lines],
        }
        (folder / "manifest.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    widths = [max(len(row[i]) for row in (HEADER, *cells)) for i in range(len(HEADER))]
    table = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (HEADER, *cells)
    ]
    report = (
        f"{seconds / 60:.1f} minutes; report: {out / 'report' / 'report.html'}, picks: {out / 'less' / 'report.html'}"
    )
    return "\n".join(["", *table, "", *facts, report])
