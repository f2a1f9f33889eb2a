"""`tamis store info | convert | gc` on the workspace of a finished run."""

import os
import re
import time
from pathlib import Path

import pytest

from tamis.store import FeatureStore


def largest(workspace: Path) -> Path:
    shard = max(workspace.glob("features/*/*.safetensors"), key=lambda path: path.stat().st_size)
    return shard.parent


def age(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 4000,) * 2)


def test_info_of_a_workspace_and_of_a_store(cli, workspace: Path) -> None:
    shown = cli("store", "info", workspace).stdout.splitlines()
    assert re.split("  +", shown[0].strip()) == [
        "store",
        "rows of",
        "dim",
        "dtype",
        "rows",
        "skipped",
        "shards",
        "size",
    ]
    stores = sorted(path.name for path in workspace.glob("features/*"))
    assert [line.split()[0] for line in shown[1:5]] == stores
    store = largest(workspace)
    [line] = [line for line in shown if line.startswith(store.name)]
    checkpoint = str(FeatureStore.load(store).recipe["checkpoint"])
    assert re.search(rf"gradient, \w+, {checkpoint[:8]} +64 +float16 +\d+ +\d+ +3 +[\d.]+ kB$", line)
    assert [re.sub(", .*", "", line) for line in shown[5:]] == [
        "stores: 4", "checkpoints: 2", "similarities: 1", "set aside: 0", "temporaries: 0",
    ]  # fmt: skip
    alone = cli("store", "info", store).stdout.splitlines()
    assert [re.sub(" +", " ", text) for text in alone] == [re.sub(" +", " ", shown[0]), re.sub(" +", " ", line)]


def test_info_names_what_cannot_be_read(cli, workspace: Path) -> None:
    (largest(workspace) / "recipe.json").write_text("{}")
    shown = cli("store", "info", workspace).stdout
    assert f"cannot be read: {largest(workspace)}/recipe.json" in shown


def test_convert_and_again(cli, workspace: Path) -> None:
    store = largest(workspace)
    path, first = cli("store", "convert", store, "--dtype", "sign").stdout.splitlines()[0].split("  ")
    assert first == "3 shards made"
    made = FeatureStore.load(Path(path))
    assert made.recipe == {**FeatureStore.load(store).recipe, "store_dtype": "sign"}
    assert made.held() == FeatureStore.load(store).held()
    shown = cli("store", "convert", store, "--dtype", "sign").stdout
    assert f"{path}  0 shards made, 3 were there\n" in shown
    assert re.search(r"[\d.]+ kB as float16, [\d.]+ kB as sign", shown)
    assert cli("verify", workspace).stdout.endswith(" 0 damaged\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "STORE", "--dtype", "int4"], "of int8, sign, got 'int4'"),
        (["convert", "STORE/..", "--dtype", "int8"], "no feature store here"),
        (["info", "STORE/nowhere"], "no workspace here"),
        (["gc", "STORE"], "no workspace here"),
        (["gc", "STORE/../..", "--checkpoints", "STORE"], "no checkpoint.json of tamis"),
    ],
)
def test_errors_are_one_line(cli, workspace: Path, arguments: list[str], message: str) -> None:
    store = str(largest(workspace))
    result = cli("store", *[argument.replace("STORE", store) for argument in arguments], code=2)
    assert result.stderr.startswith("tamis: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_gc_lists_and_with_yes_deletes(cli, workspace: Path, contents) -> None:
    age(workspace)
    before = contents(workspace)
    assert cli("store", "gc", workspace, "--yes").stdout == "nothing to delete\n"
    assert contents(workspace) == before
    aside = largest(workspace) / ("0" * 32 + ".safetensors.damaged")
    aside.write_bytes(bytes(1500))
    shown = cli("store", "gc", workspace).stdout
    assert shown == (f"   1.5 kB  {aside}: set aside as damaged\n1 thing, 1.5 kB; nothing is deleted without --yes\n")
    assert aside.exists()
    assert cli("store", "gc", workspace, "--yes").stdout.endswith("\n1.5 kB deleted\n")
    assert contents(workspace) == before
    age(workspace)
    assert cli("store", "gc", workspace, "--similarities", "--yes").stdout.count("computed again in seconds") == 2
    assert {path.suffix for path in (workspace / "similarity").iterdir()} == {".lock"}


def test_gc_of_features_whose_checkpoint_is_gone(cli, workspace: Path) -> None:
    [epoch] = workspace.glob("checkpoints/*/epoch-2")
    kept = epoch.rename(workspace.parent / "epoch-2")
    age(workspace)
    shown = cli("store", "gc", workspace).stdout
    assert shown.count("its checkpoint ") == 2
    assert cli("store", "gc", workspace, "--checkpoints", kept).stdout == "nothing to delete\n"
    cli("store", "gc", workspace, "--yes")
    assert len(list((workspace / "features").iterdir())) == 2
    assert cli("verify", workspace).stdout.endswith(" 0 damaged\n")


@pytest.mark.parametrize("name", ["info", "convert", "gc"])
def test_help(cli, name: str) -> None:
    assert f"Usage: tamis store {name} " in cli("store", name, "--help").stdout
    assert f" {name} " in cli("store", "--help", code=None).stdout
