"""Commands that train on selections: finetune, study."""

from typing import Annotated, Any

import typer

from tamis.commands.common import ModelName, ProgressKind, RemoteCode, Template, arguments, guard, shown
from tamis.errors import InputError, printable
from tamis.remote import locate

Workspace = Annotated[str | None, typer.Option("--workspace", help="cached checkpoints and features (default: .tamis)")]
Seed = Annotated[int | None, typer.Option("--seed", help="of the training (default: 0)")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N (default: auto)")]


def study(
    settings: Annotated[list[str], typer.Argument(help="a YAML file and KEY=VALUE settings")],
    out: Annotated[str | None, typer.Option("--out", help="folder for tables and report (default: study)")] = None,
    workspace: Workspace = None,
    device: Device = None,
    progress: ProgressKind = "auto",
) -> None:
    """Compare methods, budgets, models and targets over seeds: select, fine-tune, test, report."""

    def show() -> None:
        from tamis.study.run import Study
        from tamis.study.settings import load_study

        path, overrides = arguments(settings)
        flags = {"out": out, "workspace": workspace, "model.device": device}
        config = load_study(path, {**overrides, **{key: value for key, value in flags.items() if value is not None}})
        out_folder = locate(config.out or "study")
        for line in Study(config, shown(progress)).run(out_folder):
            typer.echo(printable(line))
        typer.echo(
            f"written to {printable(str(out_folder))}: report.html, figures/, tables/, results.csv, picks.parquet"
        )

    guard(show)


def finetune(
    selection: Annotated[str, typer.Argument(help="a selection's folder, or a file of rows to train on")],
    settings: Annotated[list[str] | None, typer.Argument(help="a YAML file and KEY=VALUE settings")] = None,
    model: ModelName = None,
    out: Annotated[str, typer.Option("--out", help="folder for the adapter or model")] = "tuned",
    merged: Annotated[
        bool | None, typer.Option("--merged", help="write a whole model, not an adapter", show_default=False)
    ] = None,
    workspace: Workspace = None,
    seed: Seed = None,
    device: Device = None,
    template: Template = None,
    trust_remote_code: RemoteCode = None,
    progress: ProgressKind = "auto",
) -> None:
    """Train a model on a selection: a LoRA adapter, or a whole model, out."""

    def show() -> None:
        from tamis.finetuning import finetune, read_selection

        path, overrides = arguments(settings)
        flags: dict[str, Any] = {
            "model.name": model,
            "model.device": device,
            "model.template": template,
            "model.trust_remote_code": trust_remote_code,
            "finetune.merged": merged,
            "workspace": workspace,
            "seed": seed,
        }
        given = {**overrides, **{key: value for key, value in flags.items() if value is not None}}
        if not locate(selection).exists():
            raise InputError(f"{selection}: no such folder or file; give the --out folder of `tamis select`")
        run = shown(progress)
        training = read_selection(locate(selection), path, given, run.note)
        finetune(training, locate(out), run.stage, run.note)
        n_epochs, n_steps = training.extent
        what = (
            "a model" if training.config.finetune.merged or training.config.finetune.tuning == "full" else "an adapter"
        )
        typer.echo(
            f"trained on {len(training.rows.examples):,} rows ({training.rows.n_supervised:,} supervised tokens), "
            f"{n_steps:,} steps, {n_epochs:,} epochs"
        )
        typer.echo(f"written to {printable(out)}: {what} of {printable(training.inputs.source.name)}")

    guard(show)
