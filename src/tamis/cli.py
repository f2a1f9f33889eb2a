"""The command line: argv and YAML → settings → one pipeline call. Only this module prints and exits."""

import inspect as signatures
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tamis.commands import evaluate, export, files, plan, report, study
from tamis.commands.common import (
    FieldColumns,
    FormatName,
    ModelName,
    ProgressKind,
    RemoteCode,
    Template,
    arguments,
    fields,
    guard,
    shown,
)
from tamis.commands.store import app as store_app
from tamis.errors import InputError, printable
from tamis.remote import local_only

if TYPE_CHECKING:
    from tamis.pipeline import Pipeline

app = typer.Typer(
    help="Select the instruction-tuning examples that matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Settings = Annotated[list[str] | None, typer.Argument(help="a YAML file and KEY=VALUE settings", show_default=False)]
PoolFiles = Annotated[
    list[str] | None, typer.Option("--pool", help="candidate files (globs allowed), or hf://NAME?split=S")
]
TargetFiles = Annotated[
    list[str] | None,
    typer.Option("--target", help="files of the examples that show the capability; NAME=FILE for each of several"),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method", help="less, rds, embed, bm25, tagcos, less+knn_kde, … (default: less; without a target tagcos)"
    ),
]
BudgetText = Annotated[str | None, typer.Option("--budget", help="500, 5% or 200000tok (default: 5%)")]
Out = Annotated[str | None, typer.Option("--out", help="folder to write the selection to (default: picked)")]
Workspace = Annotated[str | None, typer.Option("--workspace", help="cached checkpoints and features (default: .tamis)")]
Checkpoints = Annotated[
    str | None, typer.Option("--checkpoints", help="a finished warm-up to use instead of a new one")
]
SimilarityFile = Annotated[
    str | None, typer.Option("--similarity", help="a .npy [target, pool] of your own, in place of a representation")
]
Include = Annotated[list[str] | None, typer.Option("--include", help="file of ids or row_ids that are taken first")]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="file of ids or row_ids that are never taken")]
Evaluation = Annotated[
    list[str] | None, typer.Option("--evaluation", help="files of test rows: what gives them away is left out")
]
KeepLeaks = Annotated[
    bool | None, typer.Option("--keep-leaks", help="report leaks, but leave them in", show_default=False)
]
Memory = Annotated[str | None, typer.Option("--memory", help="for similarities and features, as 8GB (default: half)")]
Limit = Annotated[int | None, typer.Option("--limit", help="only the first rows of the pool")]
Seed = Annotated[int | None, typer.Option("--seed", help="seed of warm-up and random picks (default: 0)")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N (default: auto)")]
EngineKind = Annotated[
    str | None, typer.Option("--engine", help="local or ray (default: ray where engine.workers or .address are given)")
]
OnBadRow = Annotated[
    str | None, typer.Option("--on-bad-row", help="skip (and write to rejected.jsonl) or error (default: skip)")
]
MaxBadRows = Annotated[
    str | None, typer.Option("--max-bad-rows", help="more bad rows in a file stop the run (default: 5%)")
]
Bootstrap = Annotated[
    int | None, typer.Option("--bootstrap", help="draws of target rows that tell how firm each pick is (with --out)")
]
ProjectionSeeds = Annotated[
    int | None, typer.Option("--projection-seeds", help="projections that take turns in the draws (default: 1)")
]
Price = Annotated[float | None, typer.Option("--price", help="of an hour of a worker's machine: tells the cost")]
ProbeSeconds = Annotated[float, typer.Option("--probe-seconds", help="at most so many, up to 20, for the probe")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs: one JSON object")]

_OF_SEVERAL_FILES = ("--pool", "--target", "--test", "--evaluation", "--include", "--exclude")
_NAMED = re.compile(r"[\w-]+=")

KEYS = {
    "pool": "data.pool",
    "target": "data.target",
    "limit": "data.limit",
    "model": "model.name",
    "device": "model.device",
    "engine": "engine.kind",
    "template": "model.template",
    "trust_remote_code": "model.trust_remote_code",
    "format": "data.format",
    "on_bad_row": "data.on_bad_row",
    "max_bad_rows": "data.max_bad_rows",
    "checkpoints": "warmup.checkpoints",
    "method": "pick.method",
    "budget": "pick.budget",
    "similarity": "pick.similarity",
    "include": "pick.include",
    "exclude": "pick.exclude",
    "keep_leaks": "pick.keep_leaks",
    "evaluation": "data.evaluation",
    "memory": "memory",
    "workspace": "workspace",
    "out": "out",
    "seed": "seed",
    "bootstrap": "score.bootstrap",
    "projection_seeds": "score.projection_seeds",
}
_OF_SCORE = ("bootstrap", "projection_seeds")
_OF_PLAN = ("price", "probe_seconds", "json")  # no settings of the run


def _select(run: "Pipeline") -> None:
    selection = run.pick()
    run.write(selection)
    sources: dict[str, int] = {}
    for example in selection.examples:
        sources[example.source] = sources.get(example.source, 0) + 1
    typer.echo(f"picked {len(selection):,} of {selection.manifest['n_usable']:,} rows by {run.method.name}:")
    for source, n in sorted(sources.items(), key=lambda item: -item[1]):
        typer.echo(f"  {n / len(selection):6.1%}  {n:6,}  {printable(source)}")
    rejected = f"; {len(run.inputs.rejected):,} bad rows in rejected.jsonl" if run.inputs.rejected else ""
    files = "selected.jsonl, picks.parquet, report.html, report.json, figures/, tables/, config.yaml, manifest.json"
    typer.echo(f"written to {run.config.out}: {files}{rejected}")


def _warm_up(run: "Pipeline") -> None:
    for checkpoint in run.warm_up():
        typer.echo(
            f"{checkpoint.folder}  step {checkpoint.step}, mean learning rate {checkpoint.mean_learning_rate:.3g}"
        )


def _represent(run: "Pipeline") -> None:
    for store in run.represent_all():
        typer.echo(f"{store.folder}")


def _score(run: "Pipeline") -> None:
    if run.config.score.bootstrap:
        from tamis.bootstrap import report

        for line in report(run):
            typer.echo(line)
        return
    n_seeds = run.config.score.projection_seeds
    if n_seeds > 1:
        from tamis.bootstrap import check_seeds

        check_seeds(run.config)
    for scored in [run.score()] if n_seeds == 1 else run.score_seeds(n_seeds):
        what = f"{len(scored.targets):,} targets" if scored.targets else f"ranking by {run.method.representation}"
        typer.echo(f"{scored.path}  {what} × {len(scored.pool):,} pool rows")


def _stage(name: str, action: Callable[..., None], text: str, default_out: str | None = None) -> None:
    def command(
        settings: Settings = None,
        pool: PoolFiles = None,
        target: TargetFiles = None,
        model: ModelName = None,
        method: MethodName = None,
        budget: BudgetText = None,
        similarity: SimilarityFile = None,
        evaluation: Evaluation = None,
        keep_leaks: KeepLeaks = None,
        include: Include = None,
        exclude: Exclude = None,
        memory: Memory = None,
        out: Out = None,
        workspace: Workspace = None,
        checkpoints: Checkpoints = None,
        limit: Limit = None,
        seed: Seed = None,
        device: Device = None,
        engine: EngineKind = None,
        template: Template = None,
        field: FieldColumns = None,
        format: FormatName = None,
        on_bad_row: OnBadRow = None,
        max_bad_rows: MaxBadRows = None,
        trust_remote_code: RemoteCode = None,
        bootstrap: Bootstrap = None,
        projection_seeds: ProjectionSeeds = None,
        price: Price = None,
        probe_seconds: ProbeSeconds = 20.0,
        json: AsJson = False,
        progress: ProgressKind = "auto",
    ) -> None:
        given = dict(locals())
        own = {option: given[option] for option in _OF_PLAN if action is plan.plan}
        guard(lambda: action(_pipeline(given, out=default_out, draws=action is _score), **own))

    others = (() if action is _score else _OF_SCORE) + (() if action is plan.plan else _OF_PLAN)
    signature = signatures.signature(command)
    kept = [value for name, value in signature.parameters.items() if name not in others]
    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    app.command(name, help=text)(command)


def _pipeline(given: dict[str, Any], *, out: str | None, draws: bool) -> "Pipeline":
    from tamis.config import load_config
    from tamis.pipeline import Pipeline
    from tamis.settings import ScoreConfig

    progress = shown(given["progress"])
    path, overrides = arguments(given["settings"])
    overrides |= {key: given[flag] for flag, key in KEYS.items() if given[flag] not in (None, [])}
    if named := [file for file in given["target"] or [] if _NAMED.match(file) and not Path(file).exists()]:
        if len(named) < len(given["target"]):
            raise InputError(f"--target: name every target or none, got {' and '.join(given['target'])}")
        del overrides["data.target"]
        for file in named:
            name, _, path_of = file.partition("=")
            overrides.setdefault(f"data.targets.{name}.files", []).append(path_of)
    if given["field"]:
        overrides["data.fields"] = fields(given["field"])
    config = load_config(path, overrides)
    run = Pipeline(config.model_copy(update={"out": config.out or out}), progress)
    if not draws and config.score != ScoreConfig():
        run.progress.note("without effect but in tamis score: score.bootstrap, score.projection_seeds")
    return run


_stage("select", _select, "Pick from a pool what serves a target: warm up, represent, score, pick, write.", "picked")
_stage(
    "plan",
    plan.plan,
    "Say what select would take: tokens, FLOPs, time, memory, disk; refuse what cannot fit.",
    "picked",
)
_stage("warmup", _warm_up, "Train the checkpoints that gradient features are taken at.")
_stage("represent", _represent, "Compute the features of the pool (and the target, if given) that the workspace lacks.")
_stage("score", _score, "Compute the similarity of target and pool.")
_stage("pick", _select, "Pick from what the workspace holds, and write; what it lacks is computed first.", "picked")
app.command()(files.inspect)
app.command()(files.compare)
app.command()(files.verify)
app.command()(export.export)
app.command()(study.finetune)
app.command()(evaluate.evaluate)
app.command()(study.study)
app.command()(report.report)
app.add_typer(store_app, name="store")


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="folder for data, workspace and report")] = "demo",
    skill: Annotated[str | None, typer.Option("--skill", help="the wanted skill")] = None,
    learner: Annotated[str, typer.Option("--learner", help="the model that is trained: small or larger")] = "small",
    progress: ProgressKind = "auto",
) -> None:
    """The whole thing on the embedded model and pool: a few minutes on two cores."""

    def show() -> None:
        from tamis.progress import make
        from tamis.testbed import MODELS
        from tamis.testbed.demo import run_demo

        if learner not in MODELS:
            raise InputError(f"--learner: expected {' or '.join(MODELS)}, got {learner!r}")
        typer.echo(run_demo(local_only(out, "a demo"), skill, make(progress), learner))  # type: ignore[arg-type]

    guard(show)


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"tamis {version('tamis')}")
        raise typer.Exit
    return asked


@app.callback()
def _main(
    show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False,
) -> None:
    pass


def spread(arguments: list[str]) -> list[str]:
    """`--pool a b c` as a shell makes it of `--pool *.jsonl`, spelled `--pool a --pool b --pool c`."""
    out: list[str] = []
    option: str | None = None
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in _OF_SEVERAL_FILES else None
        elif option is not None and out[-1] != option:
            if "=" in argument or argument.endswith((".yaml", ".yml")):
                option = None
            else:
                out.append(option)
        out.append(argument)
    return out


def main() -> None:
    """Entry point of the `tamis` command."""
    # Where it is installed, PEFT imports it, and on a CPU it misses a kernel that only an optional download has
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    app(spread(sys.argv[1:]), prog_name="tamis")


if __name__ == "__main__":
    main()
