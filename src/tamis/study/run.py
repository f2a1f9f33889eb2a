"""A whole study: choose every training set, train and test every cell, write tables and report.

<out>/results.csv, examples.parquet, costs.csv, composition.csv, shown.json, study.json   see `tamis.study.tables`
      picks.parquet                                                                       every training set's rows
      config.yaml                                                                         runs the study again
      report.html, figures/, tables/                                                      see `tamis.study.page`

What was computed is in the workspace, so the same command goes on where a killed one was.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from tamis.config import Config
from tamis.data.example import Example
from tamis.data.pool import Pool
from tamis.engine import Engine, engine_of
from tamis.errors import InputError, ModelError
from tamis.evaluating import check_task
from tamis.finetuning import Training, learner, training_rows
from tamis.inputs import Inputs, digest, read_rows
from tamis.pipeline import Pipeline
from tamis.progress import Progress
from tamis.remote import Place, RemotePath, locate
from tamis.remote.folders import UNFINISHED, check_writable, edited
from tamis.remote.lease import lock
from tamis.store.files import put
from tamis.study import tables
from tamis.study.cells import Cell, Result, Testing, results, run_cells
from tamis.study.page import write_report
from tamis.study.selecting import Chosen, Selecting
from tamis.study.settings import StudyConfig
from tamis.study.spending import Spending, n_parameters
from tamis.study.tables import BASELINES, BUDGET, QUANTILE

_N_SHOWN = 5  # picks of each method that stand in the report


class Study:
    """One study, its cells made when first asked for."""

    def __init__(self, config: StudyConfig, progress: Progress, engine: Engine | None = None) -> None:
        self.engine: Engine = engine or engine_of(config.engine, config.model.device)
        self.config, self.workspace = config, locate(config.workspace)
        self.spending = Spending(self.workspace / "spending", progress)
        self._testing: dict[str, Testing] = {}
        self._n_pool: dict[str, dict[str, int]] = {}

    def run(self, out: Place) -> list[str]:
        """Compute what the workspace lacks, and write the folder; lines for a terminal.

        ModelError after all is written if trainings failed; the report is of the others, and says that it is a part.
        """
        check_place(out)
        cells = self.cells()
        folder = self.workspace / "cells"
        try:
            failed = run_cells(cells, folder, self.spending, self.engine)
        finally:  # of an interrupted study too: what is there is worth a look, and says that it is a part
            shared = lock(self.workspace / f"{digest(str(out.absolute()))}.lock")  # sharing processes end together
            with shared, edited(out, "study.json") as here:
                self.write(here, cells, list(results(cells, folder)))
                said = write_report(here)
        if failed:
            raise ModelError(f"{len(failed):,} trainings failed, and {out} is of the others; the first: {failed[0]}")
        return said

    # ---- cells -----------------------------------------------------------------------------------------------------

    def cells(self) -> list[Cell]:
        """Every cell, seed after seed, so that what is finished after a while compares all methods."""
        found: list[Cell] = []
        targets, learners = self.config.study.targets, {}
        for model in self.config.models:
            config = learner(self.config.run(model, next(iter(targets))))
            learners[model] = Inputs(config, self.spending.note)
            for target in targets:  # what cannot be tested is better known before hours of work
                check_task(self.config.evaluation(target), learners[model])
                self._tested_on(target)
        for model, read_by in learners.items():
            for target in targets:
                found += self._of_target(model, target, self.config.run(model, target), read_by)
        return sorted(found, key=lambda cell: self.config.study.seeds.index(cell.seed))

    def _of_target(self, model: str, target: str, config: Config, read_by: Inputs) -> Iterator[Cell]:
        study = self.config.study
        first = Pipeline(self.config.run(model, target, method="random", plain=True), self.spending, self.engine)
        selecting = Selecting(self.config, model, target, first, self.spending)
        testing = self._tested_on(target)
        self._n_pool[model] = dict(Counter(first.candidates.sources))

        def cell(experiment: str, chosen: Chosen, seed: int) -> Cell:
            training = None
            if chosen.examples:
                rows = training_rows(read_by, chosen.examples, chosen.weights)
                own = self.config.run(model, target, method=chosen.method) if chosen.method in study.methods else config
                training = Training(learner(own), read_by, rows, seed)
                training.check()
            return Cell(experiment, model, chosen, seed, testing, read_by, training)

        for chosen, n_seeds in selecting.without_budget():
            for seed in study.seeds[:n_seeds]:
                yield cell(BUDGET, chosen, seed)
        for budget in study.budgets:
            for chosen in selecting.methods(budget):
                for seed in study.seeds:
                    yield cell(BUDGET, chosen, seed)
            for seed in study.seeds:
                for chosen in selecting.baselines(budget, seed):
                    yield cell(BUDGET, chosen, seed)
        for chosen in selecting.bins():
            for seed in study.seeds:
                yield cell(QUANTILE, chosen, seed)

    def _tested_on(self, target: str) -> Testing:
        if target not in self._testing:
            given, config = self.config.study.targets[target], self.config.evaluation(target)
            query, test = self._rows(given.query, target), self._rows(given.test, target)
            if shared := set(query.ids) & set(test.ids):
                row = next(example for example in test if example.id in shared)
                raise InputError(
                    f"study.targets.{target}: {len(shared):,} rows stand among query and test rows, such as {row.file} "
                    f"row {row.row}; methods see the query rows, so a test on them tells nothing"
                )
            limited = test if config.limit is None else test[: config.limit]
            self._testing[target] = Testing(target, query, limited, config)
        return self._testing[target]

    def _rows(self, files: Sequence[str], target: str) -> Pool:
        found = read_rows(self.config.data, files)
        if bad := found.rejected:
            self.spending.note(f"target {target}: {len(bad):,} rows: {bad[0].file} row {bad[0].row}: {bad[0].reason}")
        if not found.examples:
            raise InputError(f"study.targets.{target}: no row in {', '.join(files)}")
        return Pool.of(found.examples, keep_duplicates=True)

    # ---- tables ----------------------------------------------------------------------------------------------------

    def write(self, out: Path, cells: Sequence[Cell], done: Sequence[tuple[Cell, Result]]) -> None:
        """The tables of the cells that are done."""
        from tamis.study.rows import example_rows, result_row

        out.mkdir(parents=True, exist_ok=True)
        if not (out / "study.json").exists():  # first, so that a folder left by a killed process is known as a study's
            put(out / "study.json", (json.dumps({"n_pending": len(cells)}) + "\n").encode())
        found = tables.Results.of_rows(
            results=[result_row(cell, result) for cell, result in done],
            examples=[row for cell, result in done for row in example_rows(cell, result)],
            costs=[*self.spending.costs(), *self._trainings(done)],
            composition=self._composition(cells),
            shown=self._shown(cells),
            manifest={
                "title": self.config.study.title,
                "settings": self.config.to_yaml(),
                "versions": {name: version(name) for name in ("tamis", "torch", "transformers", "peft", "scipy")},
                "n_pending": len(cells) - len(done),
            },
        )
        picks = BytesIO()
        pd.DataFrame(self._picks(cells)).to_parquet(picks, index=False)
        put(out / "picks.parquet", picks.getvalue())
        put(out / "config.yaml", self.config.to_yaml().encode())
        tables.write(out, found)

    def _trainings(self, done: Sequence[tuple[Cell, Result]]) -> Iterator[dict[str, Any]]:
        """Costs of a method's trainings and tests at all budgets and seeds together."""
        spent: dict[tuple[str, str, str], list[float]] = {}
        for cell, result in done:
            if cell.experiment != BUDGET:
                continue
            sums = spent.setdefault((cell.model, cell.testing.target, cell.chosen.method), [0.0, 0.0, 0.0])
            sums[0] += result.train_seconds
            if cell.training is not None:
                per_token = 6 if cell.training.config.finetune.tuning == "full" else 4
                sums[1] += per_token * n_parameters(cell.learner.source) * cell.training.n_tokens
            sums[2] += result.evaluate_seconds
        for (model, target, method), (train, flops, test) in spent.items():
            key = {"model": model, "target": target, "method": method}
            yield {**key, "stage": "fine-tune", "seconds": train, "flops": flops}
            yield {**key, "stage": "evaluate", "seconds": test}

    def _composition(self, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
        for cell in cells:
            if cell.experiment == BUDGET and cell.training is not None:
                chosen = cell.chosen
                n_picked = Counter(example.source for example in chosen.examples)
                for source, n_pool in self._n_pool[cell.model].items():
                    yield {
                        "target": cell.testing.target,
                        "model": cell.model,
                        "method": chosen.method,
                        "budget": chosen.budget,
                        "seed": cell.seed,
                        "source": source,
                        "n_picked": n_picked[source],
                        "n_pool": n_pool,
                    }

    def _picks(self, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
        for cell in cells:
            chosen = cell.chosen
            if chosen.method == tables.FULL_POOL or (
                chosen.method not in BASELINES and cell.seed != self.config.study.seeds[0]
            ):
                continue  # all of the pool; the same for every seed
            for rank, example in enumerate(chosen.examples, 1):
                yield {
                    "experiment": cell.experiment,
                    "target": cell.testing.target,
                    "model": cell.model,
                    "method": chosen.method,
                    "budget": chosen.budget,
                    "bin": chosen.bin,
                    "seed": cell.seed if chosen.method in BASELINES else None,
                    "rank": rank,
                    "id": example.id,
                    "row_id": example.row_id,
                    "file": example.file,
                    "row": example.row,
                    "source": example.source,
                    "score": chosen.scores[rank - 1] if chosen.scores else None,
                    "weight": chosen.weights[rank - 1] if chosen.weights else None,
                }

    def _shown(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """The first picks of each method at the first budget, beside the target row that took them."""
        found = []
        for cell in cells:
            chosen = cell.chosen
            is_first = chosen.budget == self.config.study.budgets[0] and cell.seed == self.config.study.seeds[0]
            if cell.experiment != BUDGET or not is_first or chosen.method in BASELINES:
                continue
            by_name = {row.row_id or row.id: row for row in cell.testing.query}
            for place, example in enumerate(chosen.examples[:_N_SHOWN]):
                taker = by_name.get(chosen.taken_by[place] or "") if chosen.taken_by else None
                found.append(
                    {
                        "target": cell.testing.target,
                        "model": cell.model,
                        "method": chosen.method,
                        "rank": place + 1,
                        "score": chosen.scores[place] if chosen.scores else None,
                        "source": example.source,
                        "picked": _turns(example),
                        "nearest": None if taker is None else _turns(taker),
                        "similarity": None,
                    }
                )
        return found


def _turns(example: Example) -> list[list[str]]:
    return [[message.role, message.content] for message in example.messages]


def check_place(out: Place) -> None:
    """InputError unless a study may be written here: a new folder, or one of a study."""
    if out.exists():
        names = {path.name for path in out.iterdir()} if out.is_dir() else {""}
        if names and not names & {"study.json", UNFINISHED}:
            raise InputError(f"{out}: this holds something else than a study (no study.json); choose another --out")
    if isinstance(out, RemotePath):
        check_writable(out)
