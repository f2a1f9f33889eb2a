"""What `import tamis` offers is pinned, and stays light."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tamis
import tamis.selectors


def test_exported_names() -> None:
    assert tamis.__all__ == [
        "ChatError", "DamagedError", "InputError", "ModelError", "StoreError", "TamisError", "select",
    ]  # fmt: skip
    assert tamis.selectors.__all__ == [
        "Budget", "Picks", "Rows", "cut_to_tokens", "doubly_greedy", "facility_location", "herding", "k_center",
        "knn_kde", "knn_uniform", "matching_pursuit", "nearest_target", "parse_budget", "random", "round_robin",
        "tagcos", "top_k", "unbalanced_transport",
    ]  # fmt: skip
    for module in (tamis, tamis.selectors):
        assert all(hasattr(module, name) for name in module.__all__)


def test_importing_and_asking_for_help_load_nothing_heavy() -> None:
    script = """
import contextlib, io, json, sys
import tamis
after_import = {"torch", "transformers", "numpy", "pydantic", "rich"} & sys.modules.keys()
from tamis.cli import app
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    app(["--help"])
assert "select" in out.getvalue()
print(json.dumps([sorted(after_import), sorted({"torch", "transformers", "numpy", "pyarrow"} & sys.modules.keys())]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


def test_select_in_python_picks_what_the_command_line_picks(
    settings: dict[str, Any], workspace: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    given = dict(settings)
    pool, target, model = (given.pop(key) for key in ("data.pool", "data.target", "model.name"))
    del given["pick.budget"]
    given["workspace"] = str(workspace)
    selection = tamis.select(
        Path(pool), [target], model=Path(model), method="less+round_robin", budget=5, out=tmp_path / "a", settings=given
    )
    cli(
        *("select", "--pool", pool, "--target", target, "--model", model, "--method", "less+round_robin"),
        *("--budget", "5", "--out", tmp_path / "b"),
        *(f"{key}={value}" for key, value in given.items()),
    )
    mine, theirs = (pq.read_table(tmp_path / name / "picks.parquet") for name in "ab")
    assert mine.equals(theirs)
    assert selection.ids == mine["id"].to_pylist()
    assert len(selection) == 5


def test_select_writes_nothing_without_out(pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(tamis.select(pool_file, method="random", budget="50%")) == 10
    assert list(tmp_path.iterdir()) == []


def test_errors_of_select_are_tamis_errors(pool_file: Path) -> None:
    with pytest.raises(tamis.TamisError, match="no target given"):
        tamis.select(pool_file, method="less")
    with pytest.raises(ValueError, match="unknown method"):
        tamis.select(pool_file, method="no")
    assert all(issubclass(getattr(tamis, name), tamis.TamisError) for name in tamis.__all__ if name.endswith("Error"))
