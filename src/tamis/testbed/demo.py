"""`tamis demo`: the whole of tamis on the embedded model and pool, where the right answer is known."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.config import Config, load_config
from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.data.selection import writing_folder
from tamis.evaluation.loss import losses
from tamis.inputs import Inputs
from tamis.model.checkpoint import TrainSettings
from tamis.model.load import LoraSettings, add_lora, load_base
from tamis.model.train import train
from tamis.pipeline import Pipeline
from tamis.progress import Progress, Silent
from tamis.report.html import render_table
from tamis.testbed import MODEL, SKILLS, write_testbed

SEEDS = (0, 1, 2)
DEFAULT_SKILL = "capitals"
LORA = LoraSettings(rank=8, alpha=16, dropout=0.0, targets="attention")
WARMUP = {
    "min_examples": 200,
    "epochs": 4,
    "learning_rate": 3e-3,
    "batch_size": 16,
    "micro_batch_size": 16,
    "lora_rank": LORA.rank,
    "lora_alpha": LORA.alpha,
    "lora_dropout": LORA.dropout,
}
EPOCHS = 4  # of fine-tuning

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


def run_demo(out: Path, skill: str | None = None, progress: Progress | None = None) -> str:
    """Select from the testbed by random, BM25 and LESS; fine-tune on each, on all, on nothing; returns the summary.

    Folder `out` gets data/, workspace/, the selections random-<seed>/, bm25/ and less/, and report/.
    """
    start, progress, skill = time.perf_counter(), progress or Silent(), skill or DEFAULT_SKILL
    (out / "data").mkdir(parents=True, exist_ok=True)
    pool_file, dev_file, test_file = write_testbed(out / "data", skill)
    wanted = {
        row["id"]
        for row in map(json.loads, pool_file.read_text(encoding="utf-8").splitlines())
        if row["skill"] == skill and row["kind"] != "wrong"
    }

    def config(method: str, name: str, seed: int = 0) -> Config:
        settings: dict[str, Any] = {
            "data": {"pool": [str(pool_file)], "target": [str(dev_file)]},
            "model": {"name": str(MODEL)},
            "warmup": WARMUP,
            "pick": {"method": method, "budget": "5%"},
            "workspace": str(out / "workspace"),
            "out": str(out / name),
            "seed": seed,
        }
        return load_config(None, settings)

    def pick(method: str, name: str, seed: int = 0) -> list[Example]:
        run = Pipeline(config(method, name, seed), progress)
        selection = run.pick()
        run.write(selection)
        return selection.examples

    inputs = Inputs(config("less", "less"), lambda _: None)
    test = Inputs(load_config(None, {"data.pool": [str(test_file)], "model.name": str(MODEL)}), lambda _: None)
    test_rows = _encode(test, list(test.pool))

    by_less, by_bm25 = pick("less", "less"), pick("bm25", "bm25")
    by_random = [pick("random", f"random-{seed}", seed) for seed in SEEDS]
    pool = list(inputs.pool)
    trainings: list[tuple[str, list[tuple[int, list[Example]]]]] = [
        ("nothing", []),
        ("random", list(zip(SEEDS, by_random, strict=True))),
        ("bm25", [(seed, by_bm25) for seed in SEEDS]),
        ("less", [(seed, by_less) for seed in SEEDS]),
        ("all", [(0, pool)]),
    ]
    n_tokens = sum(len(e.input_ids) for _, runs in trainings for _, rows in runs for e in _encode(inputs, rows))
    lines = []
    with progress.stage("fine-tune and test", n_tokens * EPOCHS) as advance:
        for name, runs in trainings:
            found = [_finetune(inputs, rows, test_rows, seed, out, advance) for seed, rows in runs]
            found = found or [float(losses(load_base(inputs.source), test_rows).mean())]
            examples = [example for _, rows in runs for example in rows]
            n_wanted = sum(example.row_id in wanted for example in examples)
            lines.append(Line(name, len(examples) // len(found), n_wanted // len(found), tuple(found)))

    pool_share = sum(example.row_id in wanted for example in pool) / len(pool)
    return _summary(out, skill, lines, pool_share, time.perf_counter() - start)


def _encode(inputs: Inputs, examples: Sequence[Example]) -> list[Encoded]:
    encoded = [inputs.encode(example) for example in examples]
    return [e for e in encoded if not isinstance(e, str)]


def _finetune(
    inputs: Inputs, rows: Sequence[Example], test_rows: Sequence[Encoded], seed: int, out: Path, advance: Any
) -> float:
    settings = TrainSettings(
        epochs=EPOCHS,
        learning_rate=3e-3,
        batch_size=16,
        micro_batch_size=16,
        warmup_ratio=0.03,
        weight_decay=0.0,
        seed=seed,
    )
    model = add_lora(load_base(inputs.source), LORA, seed)
    train(model, _encode(inputs, rows), settings, out / "workspace" / "finetune", advance=advance)
    return float(losses(model, test_rows).mean())


def _summary(out: Path, skill: str, lines: Sequence[Line], pool_share: float, seconds: float) -> str:
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
    cells = [line.cells(pool_share) for line in lines]
    with writing_folder(out / "report") as folder:
        page = render_table("tamis demo: did the model's own gradients find the right examples?", facts, HEADER, cells)
        (folder / "report.html").write_text(page, encoding="utf-8")
        record = {
            "skill": skill,
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
