"""Shapes are checked by jaxtyping and beartype while tests run; shared real data is optional."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("tamis", "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models kept beside a developer's checkout."""
    folder = Path(os.environ.get("TAMIS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not at hand: {folder} (set TAMIS_SHARED)")
    return folder
