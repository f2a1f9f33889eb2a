"""The command line: help, settings from flags, words and YAML, stages, errors in one line."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer

from tamis.cli import app, spread
from tamis.commands.common import guard

Cli = Callable[..., Any]
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


# ---- words -----------------------------------------------------------------------------------------------------------


def test_commands_are_pinned(cli: Cli) -> None:
    assert COMMANDS == [
        "select",
        "plan",
        "warmup",
        "represent",
        "score",
        "pick",
        "inspect",
        "compare",
        "verify",
        "export",
        "finetune",
        "evaluate",
        "study",
        "report",
        "demo",
    ]
    shown = cli("--help").stdout
    assert all(f" {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(cli: Cli, name: str) -> None:
    assert f"Usage: tamis {name} " in cli(name, "--help").stdout


def test_help_names_the_defaults(cli: Cli) -> None:
    shown = " ".join(cli("select", "--help").stdout.replace("│", " ").split())
    for default in ("less; without a target tagcos", "5%", ".tamis", "0", "auto"):
        assert f"(default: {default})" in shown


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == "tamis 0.1.0\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--pool a b c --budget 5", "--pool a --pool b --pool c --budget 5"),
        ("--pool a --target t u", "--pool a --target t --target u"),
        ("--evaluation a b --include i j --out o", "--evaluation a --evaluation b --include i --include j --out o"),
        ("--pool a b run.yaml", "--pool a --pool b run.yaml"),
        ("run.yaml --pool a b pick.budget=5", "run.yaml --pool a --pool b pick.budget=5"),
        ("--pool a b=c seed=1 d", "--pool a b=c seed=1 d"),
        ("--pool=a --target x=y z", "--pool=a --target x=y --target z"),
        ("inspect a b", "inspect a b"),
        ("--pool", "--pool"),
        ("", ""),
    ],
)
def test_a_shell_spreads_patterns(given: str, expected: str) -> None:
    assert spread(given.split()) == expected.split()


def test_yaml_then_words_then_flags(cli: Cli, pool_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        f"data: {{pool: {pool_file}}}\npick: {{method: random, budget: 1}}\nseed: 5\nout: {tmp_path / 'yaml'}\n"
    )
    cli("select", tmp_path / "run.yaml")
    cli("select", tmp_path / "run.yaml", "pick.budget=2", f"out={tmp_path / 'word'}")
    cli("select", tmp_path / "run.yaml", "pick.budget=2", "--budget", 3, "--out", tmp_path / "flag")
    picked = [pq.read_table(tmp_path / name / "picks.parquet")["row"].to_pylist() for name in ("yaml", "word", "flag")]
    assert [len(rows) for rows in picked] == [1, 2, 3]
    assert picked[2][:2] == picked[1]


def test_several_pool_files_and_named_fields(cli: Cli, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for file in files:
        file.write_text(json.dumps({"ask": f"Who is {file.stem}?", "note": "", "reply": "Me."}) + "\n")
    fields = ("--field", "prompt=ask,note", "--field", "completion=reply")
    result = cli(
        *("select", "--pool", *files, "--method", "random", "--budget", "100%", "--out", tmp_path / "out", *fields),
        *("--progress", "json"),
    )
    assert "picked 3 of 3 rows by random" in result.stdout
    assert all(f" 33.3%       1  {name}\n" in result.stdout for name in "abc")
    events = [json.loads(line) for line in result.stderr.splitlines()]  # stderr is for programs, all of it
    kinds = [event["event"] for event in events]
    assert [kind for kind in kinds if kind != "progress"] == [
        *("start", "note", "note", "note", "end"),  # read
        *("start", "end"),  # filter
        *("start", "end"),  # pick
    ]
    rows = (tmp_path / "out" / "selected.jsonl").read_text().splitlines()
    assert sorted(rows) == [file.read_text().strip() for file in files]


def test_an_earlier_selection_is_replaced(cli: Cli, pool_file: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        cli("select", "--pool", pool_file, "--method", "random", "--out", tmp_path / "o", "--seed", seed)
    assert f"seed: {seed}" in (tmp_path / "o" / "config.yaml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


# ---- one stage at a time ---------------------------------------------------------------------------------------------


def test_stages_say_where_their_result_is(cli: Cli, finished: Path, workspace: Path) -> None:
    config = (finished / "out" / "config.yaml", "--workspace", workspace)
    first, second = cli("warmup", *config).stdout.splitlines()
    assert first.endswith("/epoch-1  step 3, mean learning rate 0.006")
    assert second.endswith("/epoch-2  step 6, mean learning rate 0.004")
    stores = cli("represent", *config).stdout.splitlines()
    assert sorted(stores) == sorted(str(path) for path in (workspace / "features").iterdir())
    assert len(cli("represent", *config, "data.target=[]").stdout.splitlines()) == 2
    [matrix] = (workspace / "similarity").glob("*.npy")
    assert cli("score", *config).stdout == f"{matrix}  4 targets × 18 pool rows\n"


def test_verify(cli: Cli, finished: Path, workspace: Path) -> None:
    assert cli("verify", workspace).stdout == "11 files whole, 0 damaged\n"
    shard = max(workspace.glob("features/*/*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    shown = cli("verify", workspace, code=1).stdout
    assert f"damaged: {shard}.damaged: " in shown
    assert shown.endswith("10 files whole, 1 damaged\n")
    cli("represent", finished / "out" / "config.yaml", "--workspace", workspace)
    assert cli("verify", workspace).stdout == "11 files whole, 0 damaged\n"
    assert len(list(workspace.glob("features/*/*.damaged"))) == 1


# ---- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_shows_rows_as_read(cli: Cli, target_file: Path) -> None:
    shown = cli("inspect", target_file, "--rows", 2).stdout
    assert "\nuser: How much is 4 and 4?\nassistant: It is 8.\n" in shown
    heading = "row 2 · source target · group sums · id t2"
    assert heading in " ".join(shown.split())
    assert "id t3" not in shown


def test_inspect_shows_tokens_and_why_there_are_none(cli: Cli, pool_file: Path, tiny_model: Path) -> None:
    shown = cli("inspect", pool_file, "--tokens", "--model", tiny_model, "--rows", 20).stdout
    assert "<|user|>\nHow much is 2 and 1?\n<|assistant|>\n⟦It is 3.<|endoftext|>⟧\n" in shown
    assert "it holds a character that Unicode reserves" in " ".join(shown.split())
    assert "96 tokens, 0 supervised, " in shown


def test_inspect_does_not_take_data_for_markup(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "[red]x[/blue] \\[", "answer": "[bold]"}))
    assert "user: [red]x[/blue] \\[\nassistant: [bold]\n" in cli("inspect", path).stdout


# ---- errors ----------------------------------------------------------------------------------------------------------

RANDOM = "select --pool {pool} --method random --out {tmp}/out "
LESS = "select --pool {pool} --target {target} --out {tmp}/out "


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (RANDOM + "--pool {tmp}/pol.jsonl", ["pol.jsonl: no such file; nearest", "pool.jsonl"]),
        (RANDOM + "pick.bugdet=5", ["unknown setting 'pick.bugdet'", "did you mean 'pick.budget'?"]),
        (RANDOM + "{tmp}/none.yaml", ["none.yaml: cannot read this configuration file"]),
        (RANDOM + "words", ["expected one YAML file and KEY=VALUE settings, got 'words'"]),
        (RANDOM + "--method lees", ["unknown method 'lees'", "choose from less", "did you mean less?"]),
        (RANDOM + "--budget 5percent", ["expected a budget like 500", "got '5percent'"]),
        (RANDOM + "--budget 0", ["expected a budget like 500", "got '0'"]),
        (RANDOM + "--out {tmp}/foreign", ["foreign: this folder holds files", "choose another --out"]),
        (RANDOM + "--out {tmp}/pool.jsonl", ["expected a folder to write to, found a file", "choose another --out"]),
        (RANDOM + "--field prompt", ["--field: expected NAME=COLUMN[,COLUMN], got 'prompt'"]),
        (RANDOM + "--field promt=x", ["--field promt=...", "did you mean prompt?"]),
        (RANDOM + "--field prompt=x", ["no file has the columns x", "tamis inspect"]),
        (RANDOM + "--progress loud", ["--progress: expected auto, bar, plain or json, got 'loud'"]),
        (RANDOM + "--limit 0", ["data.limit: ", "greater than or equal to 1"]),
        (RANDOM + "pick.options={{reduce: max}}", ["method 'random' has no option 'reduce'; it has: balanced"]),
        ("select --method random --out {tmp}/out", ["no pool given: say --pool FILE"]),
        ("select --pool {pool} --out {tmp}/out --method bm25", ["no target given: say --target FILE"]),
        (LESS, ["no model given: say --model FOLDER or hub name"]),
        (LESS + "--model {tmp}/empty", ["cannot load a", "expected a folder in Hugging Face format or a hub name"]),
        (LESS + "--model {tmp}/weightless", ["found no weights in safetensors format"]),
        (LESS + "--model {model} --device tpu", ["unknown device 'tpu': use auto, cpu, cuda or cuda:N"]),
        (LESS + "--model {model} --template {tmp}/none.jinja", ["--template", "expected plain, a Jinja template or"]),
        (LESS + "--model {model} model.max_tokens=97", ["model.max_tokens is 97", "has 96 positions"]),
        (LESS + "--model {model} warmup.lora_targets=q_prj", ["has no module named 'q_prj'", "q_proj"]),
        (
            LESS + "--model {model} --checkpoints {tmp}",
            ["or a checkpoint of transformers' Trainer", "found none"],
        ),
        ("score --pool {pool} --method random", ["picks without similarities: there is nothing to score"]),
        ("inspect {pool} --tokens", ["--tokens needs a tokenizer: say --model FOLDER or hub name"]),
        ("verify {tmp}/none", ["no such folder; give a workspace"]),
    ],
)
def test_every_error_is_one_line_that_says_what_to_do(
    cli: Cli, line: str, parts: list[str], pool_file: Path, target_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    pool = shutil.copy(pool_file, tmp_path)
    for folder in ("foreign", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    shutil.copytree(tiny_model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    places = {"pool": pool, "target": target_file, "model": tiny_model, "tmp": tmp_path}
    words = [word.format(**places) for word in line.split(" ") if word]
    if "options" in line:
        words[-2:] = [" ".join(words[-2:])]
    result = cli(*words, "--workspace", tmp_path / "ws", code=2) if words[0] == "select" else cli(*words, code=2)
    *_, last = result.stderr.splitlines()
    assert last.startswith("tamis: ")
    assert result.stderr.count("tamis: ") == 1
    for part in parts:
        assert part in last
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_how_to_go_on(cli: Cli, pool_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tamis.pipeline.Pipeline.pick", interrupt)
    result = cli("select", "--pool", pool_file, "--method", "random", "--out", tmp_path / "o", code=130)
    assert result.stderr == "tamis: interrupted; the same command goes on from what is finished\n"


def test_inspect_tells_of_many_files_what_of_one_and_refuses_none_for_another(
    cli: Callable[..., Any], tmp_path: Path, pool_file: Path
) -> None:
    (tmp_path / "a.json").write_text('[{"question": "Q", "answer": "A"}, {"question": "Q"}]')
    (tmp_path / "b.yaml").write_text("- a")
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    told = cli("inspect", tmp_path / "a.json", tmp_path / "b.yaml", tmp_path / "c.jsonl", pool_file, code=2).stdout
    lines = told.splitlines()
    assert lines[:2] == [
        f"{tmp_path}/a.json: 1 row, 1 bad, recognised as question/answer by fields question, answer",
        "  row 2: question without answer (found: question)",
    ]
    assert lines[2].startswith(f"refused: {tmp_path}/b.yaml: found .yaml: read are .jsonl, .json (one object a line")
    assert lines[3].startswith(f"refused: {tmp_path}/c.jsonl: none of the 1 rows can be used: row 1: text without")
    assert lines[4].startswith(f"{pool_file}: 21 rows, 1 bad, recognised as messages")
    one = cli("inspect", tmp_path / "c.jsonl", code=2)
    assert (one.stdout, one.stderr.count("\n")) == ("", 1)


def test_bad_rows_are_listed_up_to_a_number(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Q", "answer": "A"}\n' + "x\n" * 7)
    assert cli("inspect", tmp_path / "a.jsonl", "--rows", "0").stdout.splitlines()[-1] == (
        "  and 2 more (--bad-rows 7 shows them)"
    )
    assert "more" not in cli("inspect", tmp_path / "a.jsonl", "--rows", "0", "--bad-rows", "7").stdout


def test_a_selection_goes_to_picked_unless_said(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"question": "Q{i}", "answer": "A"}}\n' for i in range(40)) + "x\n")
    monkeypatch.chdir(tmp_path)
    told = cli("select", "--pool", "a.jsonl", "--method", "random", "--budget", "4").stdout
    assert "report.json, figures/, tables/, config.yaml, manifest.json; 1 bad rows in rejected.jsonl" in told
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "picked"}
    refused = cli("select", "--pool", "a.jsonl", "--method", "random", "--on-bad-row", "error", code=2).stderr
    assert refused.splitlines()[-1].startswith("tamis: a.jsonl row 41: not valid JSON")


def test_an_interrupt_that_native_code_turns_into_another_error(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise AttributeError("module 'torch' has no attribute 'UntypedStorage'") from None

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(typer.Exit) as stopped:
        guard(action)
    assert stopped.value.exit_code == 130
    assert "tamis: interrupted; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before

    def broken() -> None:
        raise AttributeError("a defect")

    with pytest.raises(AttributeError, match="a defect"):  # which nobody interrupted, and which stays one
        guard(broken)
