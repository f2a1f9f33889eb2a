"""One accident after another: each stops with one sentence or finishes right, and the same command then finishes.

accident                                        shown by
disk full                                       here (writes that fail), benchmarks/faults/disk_full.py (a real one)
read-only workspace, or no place for it         here, benchmarks/faults/read_only.py
two runs at once                                here (whole runs, one --out), test_resume (represent), store/test_damage
kill -9                                         test_resume, store/test_damage, benchmarks/faults/kill_represent.py
Ctrl-C                                          here (a signal at each stage), test_resume (at each advance)
damaged shard, recipe, similarity, checkpoint   here (what a user sees), test_verify, store/test_damage,
                                                store/test_store_fuzz, model/test_checkpoint
store of another recipe                         store/test_feature_store, store/test_damage (a strayed shard)
NaN, zero gradients, labels cut off             here
targets of 1 and 5,000 rows, empty groups       here
odd budgets and pools                           here
"""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Cli = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def command(settings: dict[str, Any], tmp_path: Path) -> list[str]:
    """`tamis select` of the usual run, with a workspace and an output folder of its own."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return [
        "select",
        *words,
        "--workspace",
        str(tmp_path / "ws"),
        "--out",
        str(tmp_path / "out"),
        "--progress",
        "plain",
    ]


@pytest.fixture
def expected(finished: Path) -> bytes:
    return (finished / "out" / "selected.jsonl").read_bytes()


@pytest.fixture
def scratch(finished: Path, tmp_path: Path) -> Callable[..., Path]:
    """scratch("checkpoints", …): the workspace with these folders of a finished run."""

    def copy(*folders: str) -> Path:
        for folder in folders:
            shutil.copytree(finished / "ws" / folder, tmp_path / "ws" / folder)
        return tmp_path / "ws"

    return copy


def own_sentence(result: Any) -> str:
    """What tamis says of the accident: one line, no traceback."""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("tamis: ")]
    assert "Traceback" not in result.output
    return str(line)


def picked(folder: Path) -> bytes:
    return (folder / "out" / "selected.jsonl").read_bytes()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]


# ---- a full disk ---------------------------------------------------------------------------------------------------


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("tamis.model.train.save_checkpoint", ()),
        ("tamis.store.files.publish", ("checkpoints",)),
        ("tamis.similarity.publish", ("checkpoints", "features")),
        ("os.posix_fallocate", ("checkpoints", "features")),
        ("tamis.data.selection.write_selected", ("checkpoints", "features", "similarity")),
        ("tamis.report.html.render", ("checkpoints", "features", "similarity")),
    ],
)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk(
    cli: Cli,
    command: list[str],
    expected: bytes,
    scratch: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    there: tuple[str, ...],
    nth: int,
) -> None:
    scratch(*there)
    module, function = name.rsplit(".", 1)
    owner = importlib.import_module(module)
    real, n_calls = getattr(owner, function), 0

    def fails_at_nth(*args: Any, **named: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return full_disk() if n_calls == nth else real(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, function, fails_at_nth)
        result = cli(*command, code=2 if name not in ONCE or nth == 1 else 0)
    if result.exit_code:
        assert "No space left on device; free some, and the same command goes on" in own_sentence(result)
        assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []
    cli(*command)
    assert picked(tmp_path) == expected


ONCE = ("os.posix_fallocate", "tamis.data.selection.write_selected", "tamis.report.html.render")


def test_a_file_that_torch_cannot_write_is_a_full_disk(
    cli: Cli, command: list[str], expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 326592 vs 326484")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        result = cli(*command, code=2)
    assert "a checkpoint cannot be written, probably because no space is left" in own_sentence(result)
    cli(*command)
    assert picked(tmp_path) == expected


def test_an_earlier_selection_survives_a_full_disk(
    cli: Cli, command: list[str], scratch: Callable[..., Path], contents: Contents, tmp_path: Path, monkeypatch: Any
) -> None:
    scratch("checkpoints", "features", "similarity")
    cli(*command)
    before = contents(tmp_path / "out")
    monkeypatch.setattr("tamis.data.selection.write_selected", full_disk)
    cli(*command, "--budget", "3", code=2)
    assert contents(tmp_path / "out") == before


# ---- places that cannot be written to ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "place", "said"),
    [
        ("--workspace", "file", "Not a directory"),
        ("--workspace", "file/ws", "Not a directory"),
        ("--out", "file", "expected a folder to write to, found a file; choose another --out"),
        ("--out", "file/a/b", "file is a file, so no folder can be made below it; choose another --out"),
        ("--out", "/proc/picked", "/proc cannot be written to (No such file or directory); choose another --out"),
    ],
)
def test_a_place_that_cannot_be(cli: Cli, command: list[str], tmp_path: Path, flag: str, place: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    path = place if place[0] == "/" else str(tmp_path / place)
    result = cli(*command, flag, path, code=2)
    assert said in own_sentence(result)
    assert (tmp_path / "file").read_text() == "mine"
    if flag == "--out":
        assert not (tmp_path / "ws").exists()  # no work before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: see benchmarks/faults/read_only.py")
def test_a_folder_without_permission(cli: Cli, command: list[str], expected: bytes, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir(mode=0o500)
    assert "Permission denied" in own_sentence(cli(*command, code=2))
    (tmp_path / "ws").chmod(0o700)
    cli(*command)
    assert picked(tmp_path) == expected


# ---- Ctrl-C, and two runs at once ----------------------------------------------------------------------------------


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tamis.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("stage", "there"),
    [
        ("warm up", ()),
        ("target features", ("checkpoints",)),
        ("pool features 2/2", ("checkpoints",)),
        ("score", ("checkpoints", "features")),
        ("pick", ("checkpoints", "features", "similarity")),
    ],
)
def test_ctrl_c(
    cli: Cli,
    command: list[str],
    expected: bytes,
    scratch: Callable[..., Path],
    tmp_path: Path,
    stage: str,
    there: tuple[str, ...],
) -> None:
    scratch(*there)
    run = start(command)
    assert run.stderr is not None
    lines: list[str] = []
    for line in run.stderr:
        lines.append(line)
        if line.startswith(stage) and line.endswith("…\n"):
            run.send_signal(signal.SIGINT)
            break
    _, rest = run.communicate()
    text = "".join(lines) + rest
    assert "Traceback" not in text
    if run.returncode != 0:  # the last stages may be over before the signal comes
        assert run.returncode == 130, text
        assert "tamis: interrupted; the same command goes on from what is finished\n" in rest
        assert not (tmp_path / "out").exists()
    else:
        assert stage in ("score", "pick")
    cli(*command)
    assert picked(tmp_path) == expected
    assert leftovers(tmp_path) == []


def test_two_runs_of_one_command(command: list[str], expected: bytes, tmp_path: Path) -> None:
    from tamis.verify import verify_folder

    runs = [start(command) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert picked(tmp_path) == expected
    assert verify_folder(tmp_path / "ws")[1] == []
    assert leftovers(tmp_path) == []


def test_many_writers_of_one_output_folder(tmp_path: Path) -> None:
    script = """
import sys, pathlib
from tamis.data.selection import writing_folder
for turn in range(60):
    with writing_folder(pathlib.Path(sys.argv[1])) as folder:
        (folder / "manifest.json").write_text(sys.argv[2])
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "out", name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert (tmp_path / "out" / "manifest.json").read_text() in "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---- damaged files, as a user meets them ---------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def prolong(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGE = [flip, cut, empty, prolong]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("pattern", "mended_by"),
    [
        ("features/*/*.safetensors", "verify"),
        ("similarity/*.npy", "verify"),
        ("similarity/*.ids", "verify"),
        ("features/*/recipe.json", "delete"),
        ("checkpoints/*/epoch-2/checkpoint.json", "delete folder"),
        ("checkpoints/*/epoch-2/adam.safetensors", "delete folder"),
        ("checkpoints/*/epoch-2/adapter_model.safetensors", "delete folder"),
    ],
)
def test_a_damaged_file_is_named_and_the_remedy_works(
    cli: Cli,
    command: list[str],
    workspace: Path,
    expected: bytes,
    tmp_path: Path,
    pattern: str,
    mended_by: str,
    damage: Callable[[Path], None],
) -> None:
    path = max(workspace.glob(pattern), key=lambda found: found.stat().st_size)
    damage(path)
    if "checkpoints" in pattern:  # they are read where there is something to compute
        shutil.rmtree(workspace / "features")
        shutil.rmtree(workspace / "similarity")
    command = [*command, "--workspace", str(workspace)]
    result = cli(*command, code=None)
    if result.exit_code:
        said = own_sentence(result)
        assert str(path.parent) in said
        assert "elete" in said or "remove" in said or "`tamis verify" in said
        assert not (tmp_path / "out").exists()
    else:  # nothing but features is damaged, which only `tamis verify` and the making of a similarity read
        assert picked(tmp_path) == expected
        assert "features/" in pattern
    if mended_by == "verify":
        assert "1 damaged" in cli("verify", workspace, code=1).stdout
        assert "0 damaged" in cli("verify", workspace).stdout
    else:
        assert "1 damaged" in cli("verify", workspace, code=1).stdout
        path.unlink()
        if mended_by == "delete folder":
            shutil.rmtree(path.parent)
    cli(*command)
    assert picked(tmp_path) == expected


# ---- numbers that are none -----------------------------------------------------------------------------------------


@pytest.fixture
def model_with(tiny_model: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], Any]], Path]:
    """The tiny model with its weights changed."""

    def change(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_nan(
    cli: Cli, command: list[str], model_with: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    model = model_with(lambda weights: weights["model.layers.1.mlp.down_proj.weight"].fill_(value))
    said = own_sentence(cli(*command, "--model", model, code=2))
    assert "not finite" in said
    assert "weights" in said
    assert not list((tmp_path / "ws").rglob("epoch-*"))


def token_of(model: Path, text: str) -> int:
    from transformers import AutoTokenizer

    [token] = set(AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False).input_ids)
    return int(token)


def test_rows_that_give_nan_are_left_out_and_named(
    cli: Cli, command: list[str], model_with: Callable[..., Path], tmp_path: Path, target_file: Path
) -> None:
    """Two rows hold a character whose embedding is NaN; nothing else does."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {n}{'^' * (n in (3, 7))}"},
                {"role": "assistant", "content": "Yes"},
            ]
        }
        for n in range(12)
    ]
    pool = tmp_path / "nan.jsonl"
    pool.write_text("\n".join(map(json.dumps, rows)))
    good = tmp_path / "good.jsonl"
    good.write_text("\n".join(json.dumps(row) for n, row in enumerate(rows) if n not in (3, 7)))
    warm = ["--pool", str(good), "warmup.share=100%"]
    model = model_with(lambda _: None)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][token_of(model, "^")] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    cli("warmup", *command[1:], *warm, "--model", model)
    [checkpoints] = (tmp_path / "ws" / "checkpoints").iterdir()
    result = cli(*command, "--pool", pool, "--model", model, "--checkpoints", checkpoints, "--budget", "100%")
    assert "row 4: the gradient is not finite" in result.stderr
    assert "10 of 10" in result.stdout
    left = json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"]["pool, skipped"]
    assert [row["row"] for row in left] == [4, 8]


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("1e20", ["loss not finite in epoch 1, after 2 steps; lower warmup.learning_rate (it is 1e+20)"]),
        # All stays finite, but attention looks at one token alone, and nothing moves it; or not even that, by the CPU
        (
            "1e6",
            [
                "the gradient is zero (so it is with 4 of 4 rows); lower warmup.learning_rate, if the warm-up diverged",
                "not finite in epoch 1, after 3 steps; lower warmup.learning_rate (it is 1e+06)",
            ],
        ),
    ],
)
def test_a_warm_up_that_diverges(cli: Cli, command: list[str], tmp_path: Path, rate: str, said: list[str]) -> None:
    assert own_sentence(cli(*command, f"warmup.learning_rate={rate}", code=2)).endswith(tuple(said))
    for path in (tmp_path / "ws").glob("checkpoints/*/epoch-*/a*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_an_adapter_that_is_not_finite_is_never_kept(
    cli: Cli, command: list[str], tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of an epoch may break what no loss shows any more."""

    class Breaks(torch.optim.AdamW):
        def step(self, *given: Any, **named: Any) -> Any:
            super().step(*given, **named)
            with torch.no_grad():
                self.param_groups[0]["params"][-1][0, 0] = float("nan")

    with monkeypatch.context() as patched:
        patched.setattr("torch.optim.AdamW", Breaks)
        patched.setattr("tamis.model.train.torch.isfinite", lambda x: torch.ones(()) if x.ndim == 1 else ~x.isnan())
        said = own_sentence(cli(*command, code=2))
    assert "adapter or its Adam moments not finite in epoch 1, after 3 steps; lower warmup.learning_rate" in said
    assert not list((tmp_path / "ws").rglob("epoch-*"))
    cli(*command)
    assert picked(tmp_path) == expected


def test_a_model_without_gradients(cli: Cli, command: list[str], model_with: Callable[..., Path]) -> None:
    """Its output layer is zero: every token is as likely as any other whatever the adapter does."""
    model = model_with(
        lambda weights: [weights[name].zero_() for name in weights if "lm_head" in name or "norm" in name]
    )
    said = own_sentence(cli(*command, "--model", model, code=2))
    assert "no usable target row" in said
    assert "the gradient is zero (so it is with 4 of 4 rows)" in said


def rows_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def row(question: str, answer: str = "Yes.", **fields: Any) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, **fields}


@pytest.mark.parametrize("flag", ["--pool", "--target"])
def test_all_labels_cut_off(cli: Cli, command: list[str], tmp_path: Path, flag: str) -> None:
    path = rows_file(tmp_path / "long.jsonl", [row("Why? " * 60), row("Who? " * 60)])
    said = own_sentence(cli(*command, flag, path, code=2))
    assert "long.jsonl row 1" in said
    assert "no completion token within 96 tokens" in said


# ---- targets, groups, pools, budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["less", "less+round_robin", "bm25"])
def test_a_target_of_one_row(cli: Cli, command: list[str], tmp_path: Path, method: str) -> None:
    target = rows_file(tmp_path / "one.jsonl", [row("How much is 1 and 1?", "It is 2.")])
    cli(*command, "--target", target, "--method", method)
    assert len(picked(tmp_path).splitlines()) == 6


@pytest.mark.parametrize("method", ["less+round_robin", "bm25"])
def test_a_target_of_5000_rows(cli: Cli, command: list[str], finished: Path, tmp_path: Path, method: str) -> None:
    target = rows_file(tmp_path / "many.jsonl", [row(f"Is it {n}?", "No.", subtask=str(n % 7)) for n in range(5000)])
    [checkpoints] = (finished / "ws" / "checkpoints").iterdir()
    quick = ["represent.batch_tokens=20000", "represent.shard_rows=1000", "--checkpoints", str(checkpoints)]
    result = cli(*command, *quick, "--target", target, "--method", method, "--budget", "100%")
    n_usable = 18 if method != "bm25" else 20
    assert f"picked {n_usable} of {n_usable} rows" in result.stdout
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["target"]["n_rows"] == 5000


def test_groups_that_are_empty(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """A field that is "", null or missing is no group; rows without one are a group together."""
    rows = [row("How much is 4 and 4?", "It is 8.", subtask=group) for group in ("", None, "g", 0)]
    target = rows_file(tmp_path / "groups.jsonl", [*rows, row("Say six twice.", "six six")])
    cli(*command, "--target", target, "--method", "bm25")
    by_labels = picked(tmp_path)
    named = [{**r, "subtask": str(r.get("subtask") or ("zero" if r.get("subtask") == 0 else "none"))} for r in rows]
    rows_file(target, [*named, {**row("Say six twice.", "six six"), "subtask": "none"}])
    cli(*command, "--target", target, "--method", "bm25")
    assert picked(tmp_path) == by_labels


def test_a_group_without_a_usable_row(cli: Cli, command: list[str], tmp_path: Path) -> None:
    rows = [row("How much is 4 and 4?", "It is 8.", subtask="sums"), row("Why? " * 60, subtask="lost")]
    result = cli(*command, "--target", rows_file(tmp_path / "groups.jsonl", rows))
    assert "groups.jsonl row 2: no completion token within 96 tokens" in result.stderr
    assert "target: no row of the group lost can be used, so it has no say" in result.stderr


def test_a_budget_larger_than_the_pool(cli: Cli, command: list[str], tmp_path: Path) -> None:
    result = cli(*command, "--budget", "5000")
    assert "the budget of 5,000 exceeds the 18 usable rows: all are taken" in result.stderr
    assert len(picked(tmp_path).splitlines()) == 18


@pytest.mark.parametrize("budget", ["0", "-5", "0%", "100.1%", "-5%", "0tok", "1.5", "nan%", "", "9" * 5000])
def test_budgets_that_are_none(cli: Cli, command: list[str], tmp_path: Path, budget: str) -> None:
    said = own_sentence(cli(*command, f"--budget={budget}", code=2))
    assert "expected a budget like 500 (examples), 5% (of the usable rows, up to 100%) or 200000tok" in said
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("method", ["less", "bm25"])
def test_the_pool_may_be_the_target(cli: Cli, command: list[str], pool_file: Path, tmp_path: Path, method: str) -> None:
    cli(*command, "--target", pool_file, "--method", method)
    assert len(picked(tmp_path).splitlines()) == 6


def test_a_target_inside_the_pool_s_pattern_and_files_named_twice(
    cli: Cli, command: list[str], tmp_path: Path, pool_file: Path, target_file: Path
) -> None:
    for path in (pool_file, target_file):
        shutil.copy(path, tmp_path)
    pattern, again = tmp_path / "*.jsonl", tmp_path / "pool.jsonl"
    result = cli(*command, "--pool", pattern, "--pool", again, "--target", target_file, "--method", "bm25")
    assert "of 20 rows by bm25" in result.stdout  # 20 of the pool; the 4 of the target give themselves away
    assert "pool, leaked" in result.stderr
    result = cli(*command, "--pool", pattern, "--target", target_file, "--method", "bm25", "--keep-leaks")
    assert "of 24 rows by bm25" in result.stdout


@pytest.mark.parametrize("text", ["", "\n\n \n", "[]", "{}"])
@pytest.mark.parametrize("flag", ["--pool", "--target"])
def test_files_with_nothing_in_them(cli: Cli, command: list[str], tmp_path: Path, flag: str, text: str) -> None:
    path = tmp_path / "none.json"
    path.write_text(text)
    assert f"{path}: " in own_sentence(cli(*command, flag, path, code=2))


def test_a_file_without_permission_is_named(
    cli: Cli, command: list[str], pool_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refuse(path: Path, *mode: Any, **named: Any) -> Any:
        if path == pool_file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *mode, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert own_sentence(cli(*command, code=2)) == f"tamis: {pool_file}: Permission denied"


def test_a_file_whose_name_is_not_utf_8(cli: Cli, command: list[str], tmp_path: Path, pool_file: Path) -> None:
    shutil.copy(pool_file, os.fsencode(tmp_path) + b"/bad\xff.jsonl")
    said = own_sentence(cli(*command, "--pool", tmp_path / "*.jsonl", code=2))
    assert "rename the file" in said
