"""A whole node of a Ray cluster that goes without warning: in a process of its own, which connects to one cluster."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
N_SHARDS = 2 * 10  # 19 pool rows, two a shard, at two checkpoints

RUN = """
import json, sys
from pathlib import Path
from benchmarks.faults.node_removed import changed_mid_run
from tamis.config import load_config

config = load_config(None, json.loads(sys.argv[1]))
run = changed_mid_run(config, Path(sys.argv[2]), int(sys.argv[3]), (2, 2), seconds=0.2)
said = {"begun": run.n_begun, "twice": run.n_twice, "nodes": run.by_node, "ids": run.selection.ids}
print(json.dumps(said))
"""


def test_a_node_removed_without_warning_costs_the_shards_in_flight_alone(
    settings: dict[str, Any], tmp_path: Path, workspace: Path
) -> None:
    pytest.importorskip("ray", reason="the Ray engine is an extra")
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):  # the warm-up is done
        folder.mkdir()
        (folder / "checkpoints").symlink_to(workspace / "checkpoints")
    asked = {**settings, "represent.shard_rows": 2}
    words = [json.dumps({**asked, "workspace": str(there)}), str(tmp_path / "begun"), str(N_SHARDS // 3)]
    done = subprocess.run([sys.executable, "-c", RUN, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # and nothing else is printed, whatever Ray has to say of the lost node
    selection = Pipeline(load_config(None, {**asked, "workspace": str(here)})).pick()
    assert found["ids"] == selection.ids
    assert contents(there) == contents(here)
    assert len(found["nodes"]) == 2
    assert found["twice"] <= 2  # one shard a worker is in flight, and two are there
    assert not list(there.rglob(".*.tmp"))


def contents(workspace: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for part in ("features", "similarity")
        for path in (workspace / part).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
