"""One experiment on the testbed: pick by one model's eye, fine-tune another on the picks, ask how well it answers.

The selecting and the learning model are independent: any of `MODELS`, or a folder of one's own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tamis.config import Config, load_config
from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.evaluation.loss import losses
from tamis.inputs import Inputs
from tamis.model.checkpoint import TrainSettings
from tamis.model.load import LoraSettings, add_lora, load_base
from tamis.model.train import train
from tamis.pipeline import Pipeline
from tamis.progress import Advance, Progress, Silent
from tamis.testbed import MODEL, write_testbed

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


@dataclass(frozen=True)
class Experiment:
    """Pool, target and test rows of one skill in `folder`/data, the caches of all runs in `folder`/workspace.

    seed   of the data; the wanted rows are those that show the skill rightly
    """

    folder: Path
    skill: str
    seed: int = 0
    progress: Progress = Silent()  # noqa: RUF009  # it holds nothing

    @cached_property
    def files(self) -> tuple[Path, Path, Path]:
        """Pool, target and test file, written anew."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        return write_testbed(self.folder / "data", self.skill, self.seed)

    @cached_property
    def wanted(self) -> set[str]:
        """The row_ids of the pool that show the skill rightly."""
        lines = self.files[0].read_text(encoding="utf-8").splitlines()
        return {row["id"] for row in map(json.loads, lines) if row["skill"] == self.skill and row["kind"] != "wrong"}

    def config(
        self, method: str, *, model: Path = MODEL, seed: int = 0, out: str | None = None, **settings: Any
    ) -> Config:
        """The settings of a run, with any others by name, "." written as "__"."""
        pool, target, _ = self.files
        given: Mapping[str, Any] = {
            "data.pool": [str(pool)],
            "data.target": [str(target)],
            "model.name": str(model),
            **{f"warmup.{key}": value for key, value in WARMUP.items()},
            "pick.method": method,
            "workspace": str(self.folder / "workspace"),
            "out": None if out is None else str(self.folder / out),
            "seed": seed,
        }
        return load_config(None, {**given, **{key.replace("__", "."): value for key, value in settings.items()}})

    def pick(self, config: Config) -> list[Example]:
        """The picks of a run, written where it says."""
        run = Pipeline(config, self.progress)
        selection = run.pick()
        if config.out is not None:
            run.write(selection)
        return selection.examples

    def n_wanted(self, examples: Sequence[Example]) -> int:
        """How many of them show the skill rightly."""
        return sum(example.row_id in self.wanted for example in examples)

    def encode(self, examples: Sequence[Example], model: Path = MODEL) -> list[Encoded]:
        """Their tokens for a model, of those that can be trained on."""
        inputs = Inputs(self.config("random", model=model), lambda _: None)
        return [e for e in map(inputs.encode, examples) if not isinstance(e, str)]

    def test_loss(
        self,
        examples: Sequence[Example],
        *,
        seed: int,
        model: Path = MODEL,
        advance: Advance = lambda _: None,
    ) -> float:
        """Mean loss on the target's test set (nats a token) of a model fine-tuned on the examples, or on nothing."""
        config = load_config(None, {"data.pool": [str(self.files[2])], "model.name": str(model)})
        test = Inputs(config, lambda _: None)
        tuned = load_base(test.source)
        if examples:
            settings = TrainSettings(
                epochs=EPOCHS,
                learning_rate=3e-3,
                batch_size=16,
                micro_batch_size=16,
                warmup_ratio=0.03,
                weight_decay=0.0,
                seed=seed,
            )
            tuned = add_lora(tuned, LORA, seed)
            rows = self.encode(examples, model)
            train(tuned, rows, settings, self.folder / "workspace" / "finetune", advance=advance)
        return float(losses(tuned, self.encode(list(test.pool), model)).mean())
