"""The command line: argv and YAML → settings → one pipeline call. Only this module prints and exits."""

import errno
import inspect as signatures
import itertools
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tamis.errors import InputError, TamisError, printable

if TYPE_CHECKING:
    from tamis.agreement import Pair
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
ModelName = Annotated[str | None, typer.Option("--model", help="model folder or hub name")]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="less, tagcos, bm25, random, less+knn_kde, … (default: less; without target tagcos)"),
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
Template = Annotated[
    str | None, typer.Option("--template", help="'plain' or a jinja file, instead of the tokenizer's own")
]
FieldColumns = Annotated[
    list[str] | None, typer.Option("--field", help="NAME=COLUMN[,COLUMN] where fields have other names")
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="read rows as this format, such as preference (the chosen reply)")
]
OnBadRow = Annotated[
    str | None, typer.Option("--on-bad-row", help="skip (and write to rejected.jsonl) or error (default: skip)")
]
MaxBadRows = Annotated[
    str | None, typer.Option("--max-bad-rows", help="more bad rows in a file stop the run (default: 5%)")
]
RemoteCode = Annotated[
    bool | None, typer.Option("--trust-remote-code", help="run code that comes with the model", show_default=False)
]
Bootstrap = Annotated[
    int | None, typer.Option("--bootstrap", help="draws of target rows that tell how firm each pick is (with --out)")
]
ProjectionSeeds = Annotated[
    int | None, typer.Option("--projection-seeds", help="projections that take turns in the draws (default: 1)")
]
ProgressKind = Annotated[str, typer.Option("--progress", help="auto, bar, plain or json")]

_OF_SEVERAL_FILES = ("--pool", "--target", "--evaluation", "--include", "--exclude")
_NAMED = re.compile(r"[\w-]+=")

KEYS = {
    "pool": "data.pool",
    "target": "data.target",
    "limit": "data.limit",
    "model": "model.name",
    "device": "model.device",
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
    files = "selected.jsonl, picks.parquet, report.html, config.yaml, manifest.json"
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
        typer.echo(f"{scored.path}  {len(scored.targets):,} targets × {len(scored.pool):,} pool rows")


def _stage(name: str, action: Callable[["Pipeline"], None], text: str, default_out: str | None = None) -> None:
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
        template: Template = None,
        field: FieldColumns = None,
        format: FormatName = None,
        on_bad_row: OnBadRow = None,
        max_bad_rows: MaxBadRows = None,
        trust_remote_code: RemoteCode = None,
        bootstrap: Bootstrap = None,
        projection_seeds: ProjectionSeeds = None,
        progress: ProgressKind = "auto",
    ) -> None:
        given = dict(locals())
        _guard(lambda: action(_pipeline(given, out=default_out)))

    if action is not _score:
        signature = signatures.signature(command)
        kept = [value for name, value in signature.parameters.items() if name not in _OF_SCORE]
        command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    app.command(name, help=text)(command)


def _pipeline(given: dict[str, Any], *, out: str | None) -> "Pipeline":
    from tamis.config import load_config, parse_override
    from tamis.pipeline import Pipeline
    from tamis.progress import make

    if given["progress"] not in ("auto", "bar", "plain", "json"):
        raise InputError(f"--progress: expected auto, bar, plain or json, got {given['progress']!r}")
    overrides: dict[str, Any] = {}
    path: str | None = None
    for argument in given["settings"] or []:
        if "=" in argument:
            key, value = parse_override(argument)
            overrides[key] = value
        elif path is None and argument.endswith((".yaml", ".yml")):
            path = argument
        else:
            raise InputError(f"expected one YAML file and KEY=VALUE settings, got {argument!r}")
    overrides |= {key: given[flag] for flag, key in KEYS.items() if given[flag] not in (None, [])}
    if named := [file for file in given["target"] or [] if _NAMED.match(file) and not Path(file).exists()]:
        if len(named) < len(given["target"]):
            raise InputError(f"--target: name every target or none, got {' and '.join(given['target'])}")
        del overrides["data.target"]
        for file in named:
            name, _, path_of = file.partition("=")
            overrides.setdefault(f"data.targets.{name}.files", []).append(path_of)
    if given["field"]:
        overrides["data.fields"] = _fields(given["field"])
    config = load_config(path, overrides)
    return Pipeline(config.model_copy(update={"out": config.out or out}), make(given["progress"]))


def _fields(pairs: list[str]) -> dict[str, list[str]]:
    fields = {}
    for pair in pairs:
        name, equals, columns = pair.partition("=")
        if not (name and equals and columns):
            raise InputError(f"--field: expected NAME=COLUMN[,COLUMN], got {pair!r}")
        fields[name] = columns.split(",")
    return fields


_stage("select", _select, "Pick from a pool what serves a target: warm up, represent, score, pick, write.", "picked")
_stage("warmup", _warm_up, "Train the LoRA checkpoints that gradient features are taken at.")
_stage("represent", _represent, "Compute the features of the pool (and the target, if given) that the workspace lacks.")
_stage("score", _score, "Compute the similarity of target and pool.")
_stage("pick", _select, "Pick from what the workspace holds, and write; what it lacks is computed first.", "picked")


@app.command()
def inspect(
    files: Annotated[list[str], typer.Argument(help="files to read")],
    tokens: Annotated[bool, typer.Option("--tokens", help="show tokens, coloured where the loss counts them")] = False,
    model: ModelName = None,
    template: Template = None,
    rows: Annotated[int | None, typer.Option("--rows", help="rows to show (default: 3, of many files 0)")] = None,
    bad_rows: Annotated[int, typer.Option("--bad-rows", help="bad rows to show of a file")] = 5,
    field: FieldColumns = None,
    format: FormatName = None,
    trust_remote_code: RemoteCode = None,
) -> None:
    """Show how files are read: format, fields, bad rows; and how rows are rendered and masked."""
    overrides = {
        "data.fields": _fields(field or []),
        "data.format": format,
        "data.max_bad_rows": "100%",
        "model.name": model,
        "model.template": template,
        "model.trust_remote_code": bool(trust_remote_code),
    }

    def show() -> None:
        from tamis.data.places import expand

        if tokens and model is None:
            raise InputError("--tokens needs a tokenizer: say --model FOLDER or hub name")
        several = len(files) > 1
        n_refused = 0
        for file in expand(files) if not several else files:
            try:
                _inspect(file, overrides, (0 if several else 3) if rows is None else rows, bad_rows, tokens)
            except InputError as error:
                if not several:
                    raise
                n_refused += 1
                typer.echo(f"refused: {error}")
        if n_refused:
            raise typer.Exit(2)

    _guard(show)


def _inspect(file: str, overrides: dict[str, Any], n_rows: int, n_bad: int, tokens: bool) -> None:
    from rich.console import Console

    from tamis.config import load_config
    from tamis.inputs import Inputs
    from tamis.report.terminal import example_text, token_text

    inputs = Inputs(load_config(None, {**overrides, "data.pool": file}), lambda _: None)
    pool = inputs.pool
    for report in inputs.files:
        counted = f"{report.n_good:,} row{'s' * (report.n_good != 1)}" + (
            f", {report.n_bad:,} bad" if report.n_bad else ""
        )
        equal = f"; equal to an earlier row: {pool.n_duplicates:,}" if pool.n_duplicates else ""
        typer.echo(printable(f"{report.path}: {counted}, {report.recognised}{equal}"))
    for bad in inputs.rejected[:n_bad]:
        typer.echo(f"  row {bad.row}: {printable(bad.reason)}")
    if len(inputs.rejected) > n_bad:
        typer.echo(f"  and {len(inputs.rejected) - n_bad:,} more (--bad-rows {len(inputs.rejected)} shows them)")
    console = Console(highlight=False)
    for example in itertools.islice(pool, n_rows):
        encoded = inputs.encode(example) if tokens else ""
        if isinstance(encoded, str):
            console.print(example_text(example), encoded)
        else:
            console.print(token_text(example, encoded, inputs.tokenizer, colour=console.is_terminal))


@app.command()
def compare(
    selections: Annotated[list[str], typer.Argument(help="folders of selections, each FOLDER or NAME=FOLDER")],
    out: Annotated[Path | None, typer.Option("--out", help="folder for table, heat maps and page")] = None,
) -> None:
    """Tell how far selections agree, two by two: shared picks, ranks, and scores over the whole pool."""

    def show() -> None:
        from tamis import agreement

        if out is not None:
            agreement.check_place(out)
        read = agreement.read_selections(selections)
        pairs = agreement.compare(read)
        if sys.stdout.isatty():
            _show_pairs(pairs)
        else:
            for line in agreement.lines(pairs):
                typer.echo(line)
        if out is not None:
            agreement.write(out, read, pairs)
            files = "agreement.csv, agreement.svg, agreement.png, report.html, manifest.json"
            typer.echo(f"written to {printable(str(out))}: {files}")

    _guard(show)


def _show_pairs(pairs: "list[Pair]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tamis.agreement import HEADER, remarks

    table = Table(pad_edge=False)
    for place, name in enumerate(HEADER):
        table.add_column(name, justify="left" if place < 2 else "right", overflow="fold")
    table.add_column("remarks", overflow="fold")
    for pair in pairs:
        table.add_row(*(Text(printable(cell)) for cell in pair.cells), Text("\n".join(remarks(pair))))
    Console(highlight=False).print(table)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="a workspace, or one feature store in it")]) -> None:
    """Check every checksum; damaged shards are named and set aside, and the next run recomputes them."""

    def check() -> None:
        from tamis.verify import verify_folder

        n_whole, damaged = verify_folder(folder)
        for path, reason in damaged:
            typer.echo(f"damaged: {path}: {reason}")
        typer.echo(f"{n_whole:,} files whole, {len(damaged):,} damaged")
        if damaged:
            raise typer.Exit(1)

    _guard(check)


store_app = typer.Typer(help="See what a workspace holds, convert its stores, and tidy up.", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command("info")
def store_info(path: Annotated[Path, typer.Argument(help="a workspace, or one store")] = Path(".tamis")) -> None:
    """What each store holds: rows, how they are kept, and their bytes; and the totals of the workspace."""

    def show() -> None:
        from tamis.store.contents import is_store, store_infos, totals

        infos = store_infos(path)
        head = ("store", "rows of", "dim", "dtype", "rows", "skipped", "shards", "size")
        cells = [
            (
                info.folder.name,
                info.what,
                "?" if info.recipe is None else str(info.recipe["dim"]),
                info.dtype,
                *(f"{number:,}" for number in (info.n_rows, info.n_skipped, info.n_shards)),
                _size(info.n_bytes),
            )
            for info in infos
        ]
        if cells:
            typer.echo("\n".join(_aligned([head, *cells], n_left=2)))
        for info in infos:
            if info.problem is not None:
                typer.echo(f"cannot be read: {printable(info.problem)}")
        if not is_store(path):
            for name, total in totals(path).items():
                typer.echo(f"{name}: {total.n:,}, {_size(total.n_bytes)}")

    _guard(show)


@store_app.command("convert")
def store_convert(
    store: Annotated[Path, typer.Argument(help="a float16 store: a folder within the features of a workspace")],
    dtype: Annotated[str, typer.Option("--dtype", help="int8 (half the size) or sign (a sixteenth)")],
) -> None:
    """Make the store beside it that `represent.store_dtype` would make; the float16 store stays."""

    def make() -> None:
        from tamis.store.convert import convert

        done = convert(store, dtype)  # type: ignore[arg-type]
        kept = "" if done.n_made == done.n_shards else f", {done.n_shards - done.n_made:,} were there"
        typer.echo(f"{done.store.folder}  {done.n_made:,} shards made{kept}")
        typer.echo(f"{_size(done.bytes_before)} as float16, {_size(done.bytes_after)} as {dtype}")

    _guard(make)


@store_app.command("gc")
def store_gc(
    workspace: Annotated[Path, typer.Argument(help="a workspace")] = Path(".tamis"),
    yes: Annotated[bool, typer.Option("--yes", help="delete what is listed")] = False,
    similarities: Annotated[
        bool, typer.Option("--similarities", help="all similarities too: they are computed again in seconds")
    ] = False,
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoints", help="a warm-up kept elsewhere, whose features are to stay")
    ] = None,
) -> None:
    """List what nothing in a workspace needs any more, with the reason; with --yes delete it."""

    def tidy() -> None:
        from tamis.store.leftovers import leftovers, remove

        found = leftovers(workspace, similarities=similarities, checkpoints=checkpoints or [])
        for leftover in found:
            typer.echo(printable(f"{_size(leftover.n_bytes):>9}  {leftover.path}: {leftover.reason}"))
        counted = f"{len(found):,} things" if len(found) > 1 else "1 thing"
        total = f"{counted}, {_size(sum(leftover.n_bytes for leftover in found))}"
        if not found:
            typer.echo("nothing to delete")
        elif yes:
            typer.echo(f"{_size(remove(found))} deleted")
        else:
            typer.echo(f"{total}; nothing is deleted without --yes")

    _guard(tidy)


def _size(n_bytes: int) -> str:
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= divisor:
            return f"{n_bytes / divisor:.1f} {unit}"
    return f"{n_bytes} B"


def _aligned(rows: list[tuple[str, ...]], n_left: int) -> list[str]:
    """Lines of columns two spaces apart; all but the first `n_left` end at the right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{'<' if place < n_left else '>'}{widths[place]}}" for place, cell in enumerate(row))
        for row in cells
    ]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for data, workspace and report")] = Path("demo"),
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
        typer.echo(run_demo(out, skill, make(progress), learner))  # type: ignore[arg-type]

    _guard(show)


def _guard(action: Callable[[], None]) -> None:
    try:
        action()
    except TamisError as error:
        typer.echo(f"tamis: {printable(str(error))}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("tamis: interrupted; the same command goes on from what is finished", err=True)
        raise typer.Exit(130) from error
    except OSError as error:
        hint = "; free some, and the same command goes on from what is finished" if error.errno == errno.ENOSPC else ""
        where = error.filename or "the workspace or the output folder"
        typer.echo(f"tamis: {where}: {error.strerror or error}{hint}", err=True)
        raise typer.Exit(2) from error


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
