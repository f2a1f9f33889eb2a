"""`tamis evaluate`: score a model, or a model with an adapter, on test rows, by lm-eval's tasks, or both."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tamis.commands.common import (
    FieldColumns,
    FormatName,
    ModelName,
    ProgressKind,
    RemoteCode,
    Template,
    aligned,
    arguments,
    fields,
    guard,
)
from tamis.errors import InputError, printable
from tamis.remote import Place, local, locate

if TYPE_CHECKING:
    from torch import nn

    from tamis.config import Config
    from tamis.evaluation.harness import HarnessResults, HarnessSettings, LoadedTasks
    from tamis.evaluation.results import Evaluation
    from tamis.inputs import Inputs
    from tamis.progress import Progress

KEYS = {
    "model": "model.name",
    "adapter": "evaluate.adapter",
    "test": "data.evaluation",
    "target": "data.target",
    "task": "evaluate.task",
    "max_new_tokens": "evaluate.max_new_tokens",
    "temperature": "evaluate.temperature",
    "limit": "evaluate.limit",
    "run_code": "evaluate.run_code",
    "harness": "evaluate.harness",
    "include_path": "evaluate.include_path",
    "seed": "seed",
    "device": "model.device",
    "template": "model.template",
    "trust_remote_code": "model.trust_remote_code",
    "format": "data.format",
    "out": "out",
}
_LIBRARIES = ("tamis", "numpy", "torch", "transformers", "peft")


def evaluate(
    settings: Annotated[
        list[str] | None, typer.Argument(help="a YAML file and KEY=VALUE settings", show_default=False)
    ] = None,
    model: ModelName = None,
    adapter: Annotated[str | None, typer.Option("--adapter", help="folder of a PEFT adapter of the model")] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="files of the rows to score on")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="files of the target rows, for their mean loss")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="loss, exact_match, numeric, choice, f1 or code (default: loss)"),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="an answer ends there, if not before (default: 256)")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0: the likeliest tokens; above: sampled (default: 0)")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="only the first rows of the test set")] = None,
    run_code: Annotated[
        bool | None,
        typer.Option("--run-code", help="task code: run what the model writes, in a sandbox", show_default=False),
    ] = None,
    harness: Annotated[
        list[str] | None, typer.Option("--harness", help="a task of lm-eval (may be given several times)")
    ] = None,
    include_path: Annotated[
        str | None, typer.Option("--include-path", help="folder of lm-eval task files of your own; their Python runs")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="folder to write to (default: evaluated)")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="seed of sampled answers (default: 0)")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N (default: auto)")] = None,
    template: Template = None,
    field: FieldColumns = None,
    format: FormatName = None,
    trust_remote_code: RemoteCode = None,
    progress: ProgressKind = "auto",
) -> None:
    """Score a model on test rows: mean loss, and answers by a task; or by tasks of lm-eval."""
    given = dict(locals())
    guard(lambda: _run(given))


def _config(given: dict[str, Any]) -> "Config":
    from tamis.config import load_config

    path, overrides = arguments(given["settings"])
    overrides |= {key: given[flag] for flag, key in KEYS.items() if given[flag] not in (None, [])}
    if given["field"]:
        overrides["data.fields"] = fields(given["field"])
    config = load_config(path, overrides)
    if not config.data.evaluation and not config.evaluate.harness:
        raise InputError("nothing to score on: say --test FILE (data.evaluation), or --harness TASK")
    if config.evaluate.task != "loss" and not config.data.evaluation:
        raise InputError(f"task {config.evaluate.task} needs test rows: say --test FILE (data.evaluation)")
    return config.model_copy(update={"out": config.out or "evaluated"})


def _run(given: dict[str, Any]) -> None:
    from tamis.data.selection import check_free
    from tamis.evaluating import check_task
    from tamis.inputs import Inputs
    from tamis.progress import make

    if given["progress"] not in ("auto", "bar", "plain", "json"):
        raise InputError(f"--progress: expected auto, bar, plain or json, got {given['progress']!r}")
    config = _config(given)
    progress = make(given["progress"])
    out, settings = locate(str(config.out)), config.evaluate
    check_free(out)  # what cannot be is known before hours of work
    inputs = Inputs(config, progress.note)
    check_task(settings, inputs)
    tasks = _tasks(inputs, config, progress) if settings.harness else None
    adapter = _adapter(config)
    _ = inputs.evaluation, inputs.has_target and inputs.target
    start = time.perf_counter()
    with progress.stage("load model", 0):
        model = _model(inputs, adapter)
    evaluation, ran = None, None

    def write(missing: str | None = None) -> None:
        manifest = {**_manifest(config, inputs, adapter), "seconds": round(time.perf_counter() - start, 3)}
        _write(out, config, evaluation, ran, manifest if missing is None else {**manifest, "missing": missing})

    if config.data.evaluation:
        evaluation = _evaluate(model, inputs, config, progress)
        for line in _summary(evaluation):
            typer.echo(line)
        if tasks is not None:
            write(f"lm-eval ({', '.join(settings.harness)}) had not ended")  # it may take hours, and fail
    if tasks is not None:
        try:
            ran = _harness(model, inputs, config, tasks, progress)
        except Exception as error:
            if evaluation is not None:
                write(f"lm-eval ({', '.join(settings.harness)}) failed: {error}")
                typer.echo(_written(out, evaluation, None))
            raise
        for line in _harness_summary(ran):
            typer.echo(line)
    write()
    typer.echo(_written(out, evaluation, ran))


def _adapter(config: "Config") -> Path | None:
    """The folder of the adapter, if one is given. InputError where there is none."""
    if config.evaluate.adapter is None:
        return None
    folder = locate(config.evaluate.adapter)
    files = ("adapter_config.json", "adapter_model.safetensors")  # other weights are pickles
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"{folder}: expected a PEFT adapter ({' and '.join(files)}), found no {missing[0]} there")
    return local(folder)


def _model(inputs: "Inputs", adapter: Path | None) -> "nn.Module":
    from tamis.model.load import attach_adapter, load_base

    base = load_base(inputs.source)
    return base if adapter is None else attach_adapter(base, adapter).requires_grad_(False)


def _evaluate(model: "nn.Module", inputs: "Inputs", config: "Config", progress: "Progress") -> "Evaluation":
    from tamis.evaluating import evaluate as score

    target = inputs.target if inputs.has_target else None
    with progress.stage("evaluate", 0):
        return score(model, inputs, target, inputs.evaluation, config.evaluate, config.seed)


def _tasks(inputs: "Inputs", config: "Config", progress: "Progress") -> "LoadedTasks":
    from tamis.evaluation.harness import load_tasks

    with progress.stage("load tasks", 0):
        return load_tasks(config.evaluate.harness, _harness_settings(inputs, config))


def _harness(
    model: "nn.Module", inputs: "Inputs", config: "Config", tasks: "LoadedTasks", progress: "Progress"
) -> "HarnessResults":
    from tamis.evaluation.harness import run_harness

    settings = _harness_settings(inputs, config)
    with progress.stage("lm-eval", 0):
        return run_harness(model, inputs.tokenizer, inputs.chat, inputs.max_tokens, tasks, settings)


def _harness_settings(inputs: "Inputs", config: "Config") -> "HarnessSettings":
    from tamis.evaluation.harness import HarnessSettings

    given = config.evaluate
    return HarnessSettings(
        given.include_path,
        given.limit,
        batch_size=max(1, given.batch_tokens // inputs.max_tokens),
        max_new_tokens=given.max_new_tokens,
        seed=config.seed,
        show=sys.stderr.isatty(),
    )


def _summary(evaluation: "Evaluation") -> list[str]:
    rows = []
    for name, found in evaluation.means().items():
        is_loss = name.endswith("_loss")
        low, mean, high = (_shown(found[key], is_loss) for key in ("low", "mean", "high"))
        skipped = f", {found['n_skipped']:,} skipped" if found["n_skipped"] else ""
        what = f"mean loss, {name.removesuffix('_loss')}" if is_loss else name
        rows.append((what, mean, f"{low} to {high}", f"{found['n_rows']:,} rows{skipped}"))
    return aligned([("", "mean", "95% interval", "of"), *rows], n_left=1)


def _shown(value: float | None, is_loss: bool) -> str:
    if value is None:
        return "?"
    return f"{value:.3f}" if is_loss else f"{value:.1%}"


def _harness_summary(ran: "HarnessResults") -> list[str]:
    rows = []
    for task, metrics in ran.metrics.items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, float):
                error = metrics.get(f"{metric}_stderr,{kind}")
                shown = f"{error:.4f}" if isinstance(error, float) else "?"
                rows.append((f"lm-eval {task}", metric, f"{value:.4f}", shown, f"{len(ran.samples.get(task, [])):,}"))
    return aligned([("", "metric", "value", "standard error", "rows"), *rows], n_left=2)


def _manifest(config: "Config", inputs: "Inputs", adapter: Path | None) -> dict[str, Any]:
    from importlib.metadata import version

    from tamis.model.load import ModelSource, model_digest

    libraries = (*_LIBRARIES, *(["lm_eval"] if config.evaluate.harness else []))
    test = inputs.evaluation and inputs.evaluation[: config.evaluate.limit]  # the rows that were scored
    pools = {"target": inputs.target if inputs.has_target else None, "test": test}
    return {
        "kind": "evaluation",
        "versions": {name: version(name) for name in libraries},
        "model": {
            "name": inputs.source.name,
            "digest": inputs.base_digest,
            "template": inputs.chat.name,
            "max_tokens": inputs.max_tokens,
            "dtype": inputs.dtype,
        },
        "adapter": adapter and {"name": str(adapter), "digest": model_digest(ModelSource(str(adapter)))},
        **{name: {"digest": pool.digest, "n_rows": len(pool)} for name, pool in pools.items() if pool},
        "seed": config.seed,
        "settings": config.evaluate.model_dump(),
        "left_out": inputs.left_out,
    }


def _write(
    out: Place,
    config: "Config",
    evaluation: "Evaluation | None",
    ran: "HarnessResults | None",
    manifest: dict[str, Any],
) -> None:
    from tamis.data.selection import writing_folder
    from tamis.evaluation.results import save

    with writing_folder(out) as folder:
        save(folder, evaluation, manifest)
        (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        if ran is not None:
            ran.save(folder)


def _written(out: Place, evaluation: "Evaluation | None", ran: "HarnessResults | None") -> str:
    files = [*(["examples.jsonl"] if evaluation else []), *(["harness.json, harness/"] if ran else [])]
    return printable(f"written to {out}: {', '.join(files)}, config.yaml, manifest.json")
