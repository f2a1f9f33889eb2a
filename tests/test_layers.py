"""Imports only point down, and arrays and files need no deep learning library: the contracts of pyproject.toml."""

from pathlib import Path

import pytest

importlinter = pytest.importorskip("importlinter.cli")


def test_import_contracts_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[1] / "pyproject.toml"
    failed = importlinter.lint_imports(config_filename=str(config), no_cache=True)
    out = capsys.readouterr().out
    assert not failed, out
    assert "Imports only point down KEPT" in out
