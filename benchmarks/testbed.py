"""Studies on the testbed, where it is known which rows are wanted: `python -m benchmarks.testbed NAME --out DIR`.

    transfer         picks of the small model train the larger one, against random picks and the larger one's own
    representations  every representation in place of the gradient; the encoder of `embed` by --encoder
    ablations        LESS without warm-up, with one checkpoint, without normalisation, with SGD, with other dims
    bootstrap        inclusion probability of wanted rows and of others

Every selection is 5% of the pool, every number of three seeds: each is a seed of warm-up, picks and fine-tuning; the
test loss is the mean over the target's test set, in nats a token. Started again it goes on from what is finished.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from tamis.bootstrap import bootstrap as bootstrap_of
from tamis.config import Config
from tamis.pipeline import Pipeline
from tamis.progress import Progress, make
from tamis.report.figures import BLUE, ORANGE, save_figure
from tamis.testbed import MODELS
from tamis.testbed.experiment import Experiment

SEEDS = (0, 1, 2)
DIMS = (512, 1024, 2048, 4096)
N_DRAWS, N_PROJECTIONS = 200, 4
METHODS = (
    "random",
    *(f"{name}+{selector}" for name in ("less", "rds", "embed", "bm25") for selector in ("top_k", "round_robin")),
    "dsir",
    "loss",
    "ifd",
)
Line = dict[str, Any]


class Kept:
    """Results by name in one JSON file, each computed once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self._results:
            self._results[name] = compute()
            self._path.write_text(json.dumps(self._results, indent=2) + "\n")
        return self._results[name]


@dataclass(frozen=True)
class Study:
    """Where it is kept, which skills are wanted in turn, and what `embed` encodes by."""

    folder: Path
    kept: Kept
    skills: Sequence[str]
    encoder: str | None
    progress: Progress

    def experiment(self, skill: str) -> Experiment:
        return Experiment(self.folder / skill, skill, progress=self.progress)

    def config(self, here: Experiment, method: str, seed: int) -> Config:
        given: dict[str, Any] = {} if self.encoder is None else {"represent__encoder": self.encoder}
        return here.config(method, seed=seed, **given)


def transfer(study: Study) -> Table:
    """Test loss of the larger model, by whose picks it was trained on."""
    table = Table("skill", "trained on", "wanted", "test loss, by seed", "mean", title="the larger model, fine-tuned")
    for skill in study.skills:
        here = study.experiment(skill)
        sides: dict[str, Callable[[int], Config]] = {
            "random": partial(_config, here, "random"),
            "picks of the small model": partial(_config, here, "less"),
            "its own picks": partial(_config, here, "less", model=MODELS["larger"]),
        }
        nothing = study.kept.get(f"{skill}/nothing", partial(_outcome, here, None, 0, "larger"))
        table.add_row(skill, "nothing", *_cells([nothing]))
        for name, config in sides.items():
            lines = [
                study.kept.get(f"{skill}/{name}/{seed}", partial(_outcome, here, config(seed), seed, "larger"))
                for seed in SEEDS
            ]
            table.add_row(skill, name, *_cells(lines))
    return table


def ablations(study: Study) -> Table:
    """Share of the wanted skill among the picks, and the test loss of the model trained on them."""
    variants: dict[str, dict[str, Any]] = {
        "random": {"method": "random"},
        "LESS (4 checkpoints, Adam, cosine, dim 8192)": {},
        "without warm-up": {"warmup__epochs": 0},
        "one checkpoint (the last)": {"represent__checkpoints": [-1]},
        "one checkpoint (the first)": {"represent__checkpoints": [1]},
        "without normalisation (dot product)": {"represent__normalize": False},
        "SGD in place of Adam": {"represent__adam": "sgd"},
        "SGD, without normalisation": {"represent__adam": "sgd", "represent__normalize": False},
        **{f"dim {dim}": {"represent__dim": dim} for dim in DIMS},
        "sign of the gradient": {"represent__adam": "sign"},
        "Adam as in the published code": {"represent__adam": "less"},
    }
    table = Table(
        "skill", "variant", "wanted", "test loss, by seed", "mean", title="LESS on the testbed, 5% of the pool"
    )
    for skill in study.skills:
        here = study.experiment(skill)
        for name, settings in variants.items():
            given = {"method": "less", **settings}
            lines = [
                study.kept.get(
                    f"{skill}/{name}/{seed}", partial(_outcome, here, _config(here, seed=seed, **given), seed)
                )
                for seed in SEEDS
            ]
            table.add_row(skill, name, *_cells(lines))
    return table


def representations(study: Study) -> Table:
    """Every representation by what matters in the end: share of the wanted skill, and the loss after training on it."""
    table = Table("skill", "method", "wanted", "test loss, by seed", "mean", title="5% of the pool")
    for skill in study.skills:
        here = study.experiment(skill)
        for method in METHODS:
            lines = [
                study.kept.get(
                    f"{skill}/{method}/{seed}", partial(_outcome, here, study.config(here, method, seed), seed)
                )
                for seed in SEEDS
            ]
            table.add_row(skill, method, *_cells(lines))
    return table


def bootstrap(study: Study) -> Table:
    """How often a row comes up among the picks of other targets and projections, if it has the skill and if not."""
    table = Table("skill", "rows", "number", "mean inclusion", "of the picks", "firm", title=f"{N_DRAWS} draws")
    curves = {}
    for skill in study.skills:
        here = study.experiment(skill)
        found = study.kept.get(skill, partial(_inclusion, here))
        curves[skill] = found
        for kind, rows in (("with the skill", found["wanted"]), ("others", found["others"])):
            inclusion = [p for p, _ in rows]
            picked = [p for p, is_pick in rows if is_pick]
            firm = sum(p >= 0.9 for p in picked)
            table.add_row(
                skill, kind, f"{len(rows):,}", f"{statistics.mean(inclusion):.3f}", f"{len(picked):,}", f"{firm:,}"
            )
    save_figure(_curves(curves), study.folder, "bootstrap")
    return table


def _inclusion(here: Experiment) -> dict[str, list[tuple[float, bool]]]:
    """Inclusion probability of every row, and whether it is a pick; those with the wanted skill, and others."""
    config = here.config("less", score__bootstrap=N_DRAWS, score__projection_seeds=N_PROJECTIONS)
    stability = bootstrap_of(Pipeline(config, here.progress))
    found = stability.inclusion
    rows: dict[str, list[tuple[float, bool]]] = {"wanted": [], "others": []}
    for example, p, is_pick in zip(stability.pool, found.probability, found.is_pick, strict=True):
        rows["wanted" if example.row_id in here.wanted else "others"].append((float(p), bool(is_pick)))
    return rows


def _curves(found: dict[str, dict[str, list[tuple[float, bool]]]]) -> Figure:
    """For each skill the share of rows that come up in at least so many of the draws, by whether they have it."""
    figure = Figure(figsize=(3.2 * len(found) + 0.6, 3.4), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axis, (skill, rows) in zip(axes, found.items(), strict=True):
        for kind, label, colour, style in (
            ("wanted", "with the skill", BLUE, "-"),
            ("others", "all others", ORANGE, (0, (4, 1.5))),
        ):
            inclusion = np.sort([p for p, _ in rows[kind]])
            x = np.linspace(0, 1, 201)[1:]
            y = 1 - np.searchsorted(inclusion, x) / len(inclusion)
            axis.plot(x, 100 * y, color=colour, linestyle=style, linewidth=2.2, label=f"{label} ({len(inclusion):,})")
        axis.set(title=skill, xlim=(0, 1), ylim=(0, 100), xlabel="in at least this share of the draws")
        axis.legend(fontsize=9, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("% of the rows are picked")
    return figure


def _config(here: Experiment, method: str, seed: int, **settings: Any) -> Config:
    return here.config(method, seed=seed, **settings)


def _outcome(here: Experiment, config: Config | None, seed: int, learner: str = "small") -> Line:
    examples = [] if config is None else here.pick(config)
    return {
        "n_rows": len(examples),
        "n_wanted": here.n_wanted(examples),
        "test_loss": here.test_loss(examples, seed=seed, model=MODELS[learner]),
    }


def _cells(lines: Sequence[Line]) -> tuple[str, str, str]:
    wanted = [line["n_wanted"] / line["n_rows"] for line in lines if line["n_rows"]]
    losses = [line["test_loss"] for line in lines]
    return (
        "  ".join(f"{share:.0%}" for share in wanted),
        "  ".join(f"{loss:.3f}" for loss in losses),
        f"{statistics.mean(losses):.3f}",
    )


STUDIES = {
    "transfer": transfer,
    "ablations": ablations,
    "representations": representations,
    "bootstrap": bootstrap,
}


def main() -> None:
    """Run one study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testbed", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, caches and results")
    parser.add_argument("--skill", action="append", help="default: capitals")
    parser.add_argument("--encoder", help="folder or hub name of a sentence encoder")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(given.out / f"{given.study}.json")
    study = Study(given.out, kept, given.skill or ["capitals"], given.encoder, make("plain"))
    table = STUDIES[given.study](study)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
