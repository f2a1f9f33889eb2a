"""What cannot fit is refused by one sentence that names the setting to change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from tamis.cli import app
from tamis.errors import InputError
from tamis.planning import Plan, disk, memory
from tamis.planning import plan as make

Planner = Callable[..., Plan]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_weights_that_do_not_fit_are_not_loaded(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(
        InputError, match=r"its weights take .* of memory, and 1.0 kB are free: .*model\.quantization=4bit"
    ):
        planned()


def test_too_little_memory_names_what_takes_most(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 50_000_000)
    (refused,) = planned().refused
    assert "of memory, and 50.0 MB are free: set a smaller represent.batch_tokens" in refused
    monkeypatch.setattr(memory, "SHARD_CELL_BYTES", 10**9)
    (refused,) = planned().refused
    assert "set a smaller represent.shard_rows or represent.dim" in refused
    monkeypatch.setattr(memory, "selector_bytes", lambda _, sizes, *__: 10**15 * sizes["n_pool"])
    monkeypatch.setattr("tamis.planning.rest.made_up_rows", lambda *_: 4)
    (refused,) = planned().refused
    assert "say how much it may take (memory=4GB)" in refused


def test_too_little_disk_names_what_writes_most(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(_: Path) -> Usage:
        return Usage(10**9, 10**9 - free, free)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    free = 10
    with pytest.raises(InputError, match="set TMPDIR to a folder that has more"):
        planned()  # not even the probe's own files
    (refused,) = planned(pick__method="rds", represent__shard_rows=1).refused
    assert "represent.store_dtype=int8, or another workspace" in refused or "--out" in refused
    free = 10**8
    assert planned(pick__method="rds").refused == ()


def test_a_remote_workspace_s_room_is_not_asked_for(settings: dict[str, Any]) -> None:
    pytest.importorskip("fsspec")
    from tamis.config import load_config

    config = load_config(None, {**settings, "workspace": "memory://plan", "pick.method": "rds"})
    plan = make(config, probe_seconds=0.05)
    assert all("features" not in place.used_by for place in plan.disk)
    assert any("memory://plan has room" in sentence for sentence in plan.assumed)


# ---- the command ---------------------------------------------------------------------------------------------------


def _words(settings: dict[str, Any], folder: Path) -> list[str]:
    given = {**settings, "workspace": str(folder / "ws"), "out": str(folder / "out")}
    return ["plan", "--probe-seconds", "0.05", "--progress", "plain", *(f"{k}={v}" for k, v in given.items())]


def test_the_command_shows_stages_totals_and_assumptions(settings: dict[str, Any], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*_words(settings, tmp_path), "--price", "2.5"])
    assert done.exit_code == 0, done.output
    for shown in ("pool features 2/2", "warm up", "memory: up to", "disk: up to", "assumed:", "at 2.5 an hour"):
        assert shown in done.stdout
    assert not (tmp_path / "ws").exists()


def test_the_command_refuses_with_exit_code_2(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 50_000_000)
    done = CliRunner().invoke(app, [*_words(settings, tmp_path), "--json"])
    assert done.exit_code == 2
    assert '"refused": [' in done.stdout
    assert "are free: set a smaller represent.batch_tokens" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400
