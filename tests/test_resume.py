"""Interrupted, killed and concurrent runs leave the files of an uninterrupted one."""

import os
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
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-1", "trainer"]
    told = recorder()
    Pipeline(config, told).score()
    assert "warm-up: 10 examples, 2 epochs, 1 done before" in told.notes
    assert contents(tmp_path / "ws") == contents(finished / "ws")


@pytest.fixture
def start(settings: dict[str, Any], finished: Path, tmp_path: Path) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Starts `tamis represent` in a process of its own, over finished checkpoints; one row a shard."""
    [warmup] = (finished / "ws" / "checkpoints").iterdir()
    given = {**settings, "workspace": tmp_path / "ws", "warmup.checkpoints": warmup, "represent.shard_rows": 1}
    command = [sys.executable, "-m", "tamis.cli", "represent", *(f"{key}={value}" for key, value in given.items())]
    return lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)


@pytest.fixture
def undisturbed(settings: dict[str, Any], finished: Path, tmp_path: Path, contents: Contents) -> dict[str, bytes]:
    [warmup] = (finished / "ws" / "checkpoints").iterdir()
    given = {"workspace": str(tmp_path / "alone"), "warmup.checkpoints": str(warmup), "represent.shard_rows": 1}
    Pipeline(load_config(None, {**settings, **given})).represent_all()
    return contents(tmp_path / "alone")


def test_killed_then_finished_by_two_at_once(
    start: Callable[[], "subprocess.Popen[bytes]"], undisturbed: dict[str, bytes], contents: Contents, tmp_path: Path
) -> None:
    killed = start()
    while killed.poll() is None and len(shards(tmp_path / "ws")) < 12:
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    n_left_over = len(shards(tmp_path / "ws"))
    assert 12 <= n_left_over <= 48
    writers = [start(), start()]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(shards(tmp_path / "ws")) == 48
    found = {name: data for name, data in contents(tmp_path / "ws").items() if not name.endswith(".tmp")}
    assert found == undisturbed
