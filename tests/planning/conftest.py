from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.planning import Plan
from tamis.planning import plan as make

Planner = Callable[..., Plan]


@pytest.fixture
def planned(settings: dict[str, Any], tmp_path: Path) -> Planner:
    """A plan of the tiny run with other settings, whose probe is as short as it can be."""

    def run(**changes: Any) -> Plan:
        given = {**settings, "workspace": str(tmp_path / "ws"), "out": str(tmp_path / "out")}
        given |= {key.replace("__", "."): value for key, value in changes.items()}
        return make(load_config(None, given), probe_seconds=0.05)

    return run
