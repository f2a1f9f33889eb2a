"""docs/data.md says what happens to each of the real files: it is held to them."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_ROW = re.compile(r"^\| `((?:formats|dirty)/[^`]+)` \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
_TABLE = _ROW.findall((Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("command", "result", "reason"), _TABLE, ids=[row[0] for row in _TABLE])
def test_a_real_file(shared: Path, cli: Callable[..., Any], command: str, result: str, reason: str) -> None:
    name, *options = shlex.split(command)
    path = str(shared / "data" / name)
    if result.strip() == "refused":
        told = cli("inspect", path, *options, code=2).stderr
        assert reason.strip()
        assert told.startswith(f"tamis: {path}: ")
        assert reason.strip() in told
        assert told.count("\n") == 1
    else:
        told = cli("inspect", path, *options, "--rows", "0").stdout
        assert told.startswith(f"{path}: {result.strip()}, recognised as ")


def test_every_real_file_is_in_the_table(shared: Path) -> None:
    files = {f"{kind}/{path.name}" for kind in ("formats", "dirty") for path in (shared / "data" / kind).iterdir()}
    assert {shlex.split(command)[0] for command, _, _ in _TABLE} == files
