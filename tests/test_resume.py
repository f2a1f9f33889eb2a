"""Interrupted, killed and concurrent runs leave the files of an uninterrupted one."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.pipeline import Pipeline

Contents = Callable[[Path], dict[str, bytes]]


def shards(workspace: Path) -> list[Path]:
    return list(workspace.glob("features/*/*.safetensors"))


@pytest.mark.parametrize("n_advances", [1, 2, 4])
def test_interrupted_while_representing(
    settings: dict[str, Any], finished: Path, tmp_path: Path, recorder: Any, contents: Contents, n_advances: int
) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(finished / "ws" / "checkpoints", workspace / "checkpoints")
    config = load_config(None, {**settings, "workspace": str(workspace)})
    with pytest.raises(KeyboardInterrupt):
        Pipeline(config, recorder(("pool features 2/2", n_advances))).score()
    assert 5 <= len(shards(workspace)) < 8  # two of the target, three of the first checkpoint, not all of the second
    told = recorder()
    Pipeline(config, told).score()
    assert 0 < told.n_todo["pool features 2/2"] <= 20
    assert contents(workspace) == contents(finished / "ws")


def test_interrupted_while_warming_up(
    settings: dict[str, Any], finished: Path, tmp_path: Path, recorder: Any, contents: Contents
) -> None:
    config = load_config(None, {**settings, "workspace": str(tmp_path / "ws")})
    with pytest.raises(KeyboardInterrupt):
        Pipeline(config, recorder(("warm up", 5))).score()  # told of the start, and of three steps an epoch
    [folder] = (tmp_path / "ws" / "checkpoints").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-1", "lock", "trainer"]
    told = recorder()
    Pipeline(config, told).score()
    assert "warm-up: 10 examples, 2 epochs, 1 done before" in told.notes
    assert contents(tmp_path / "ws") == contents(finished / "ws")


@pytest.fixture
def given(settings: dict[str, Any], finished: Path) -> dict[str, Any]:
    """Settings of many shards, over finished checkpoints."""
    [warmup] = (finished / "ws" / "checkpoints").iterdir()
    return {**settings, "represent.shard_rows": 1, "warmup.checkpoints": str(warmup)}


@pytest.fixture
def undisturbed(given: dict[str, Any], tmp_path: Path, contents: Contents) -> dict[str, bytes]:
    Pipeline(load_config(None, {**given, "workspace": str(tmp_path / "alone")})).represent_all()
    return contents(tmp_path / "alone" / "features")


def start(given: dict[str, Any], workspace: Path) -> "subprocess.Popen[bytes]":
    """`tamis represent` in a process of its own."""
    words = [f"{key}={value}" for key, value in given.items()]
    command = [sys.executable, "-m", "tamis.cli", "represent", *words, "--workspace", str(workspace)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_then_finished(
    given: dict[str, Any], undisturbed: dict[str, bytes], contents: Contents, tmp_path: Path
) -> None:
    killed = start(given, tmp_path / "ws")
    while killed.poll() is None and len(shards(tmp_path / "ws")) < 12:
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    assert 12 <= len(shards(tmp_path / "ws")) <= 48
    Pipeline(load_config(None, {**given, "workspace": str(tmp_path / "ws")})).represent_all()
    found = contents(tmp_path / "ws" / "features")
    assert {name: data for name, data in found.items() if not name.endswith(".tmp")} == undisturbed


def test_two_at_once_from_nothing(
    given: dict[str, Any], undisturbed: dict[str, bytes], contents: Contents, finished: Path, tmp_path: Path
) -> None:
    del given["warmup.checkpoints"]
    writers = [start(given, tmp_path / "ws") for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert contents(tmp_path / "ws" / "features") == undisturbed
    mine, theirs = (contents(folder / "ws" / "checkpoints") for folder in (tmp_path, finished))
    assert sorted(mine) == sorted(theirs)
    # PEFT writes the names of the layers as a set, in the order of the process.
    assert [name for name in mine if mine[name] != theirs[name] and "adapter_config.json" not in name] == []
