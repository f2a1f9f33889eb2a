"""A plan against the run it is about, but for seconds and memory, which depend on the machine."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.config import load_config
from tamis.data.example import Example, Message
from tamis.data.pool import Pool
from tamis.errors import InputError, ModelError
from tamis.planning import Plan, rows
from tamis.planning import plan as make
from tamis.planning.after import line
from tamis.planning.probe import evenly
from tamis.planning.rows import lengths_of
from tamis.representations.sentence import Words
from tamis.store import files

Planner = Callable[..., Plan]


def _bytes(folder: Path) -> int:
    return sum(files.size(path) for path in folder.rglob("*") if path.is_file())


def _stages(plan: Plan) -> dict[str, Any]:
    return {stage.name: stage for stage in plan.stages}


def test_a_plan_of_less_names_every_stage_and_foretells_the_bytes(
    planned: Planner, finished: Path, tmp_path: Path
) -> None:
    plan = planned()
    assert [stage.name for stage in plan.stages] == [
        "start and read",
        "warm up",
        *(f"{what} features {n}/2" for what in ("target", "pool") for n in (1, 2)),
        "score",
        "pick",
        "write",
    ]
    by_name = _stages(plan)
    assert all(stage.seconds > 0 for stage in plan.stages)
    assert by_name["warm up"].n_rows == 2 * 10  # half of 20, twice
    assert by_name["pool features 2/2"].n_rows == 20
    assert by_name["target features 1/2"].n_rows == 4
    assert by_name["write"].n_rows == 6
    assert plan.pool.n_rows == 20
    assert plan.pool.n_skipped == 2  # the reserved character, and the row without an answer within 96 tokens
    assert plan.pool.standard_error == 0
    assert plan.flops == sum(stage.flops for stage in plan.stages) > 0
    assert plan.refused == ()
    for kind, real in (
        ("checkpoints", _bytes(finished / "ws" / "checkpoints")),
        ("features", _bytes(finished / "ws" / "features")),
        ("similarity", _bytes(finished / "ws" / "similarity")),
    ):
        said = sum(stage.disk_bytes for stage in plan.stages if stage.writes == kind)
        assert said == pytest.approx(real, rel=0.05), kind
    assert by_name["write"].disk_bytes == pytest.approx(_bytes(finished / "out"), rel=0.3)


def test_a_plan_leaves_nothing_behind(planned: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    planned()
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert not any(scratch.iterdir())


def test_what_the_workspace_holds_takes_nothing(planned: Planner, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "ws").rglob("*")}
    plan = planned(workspace=str(finished / "ws"))
    by_name = _stages(plan)
    for name in ("warm up", "target features 1/2", "pool features 1/2", "pool features 2/2", "score"):
        assert (by_name[name].seconds, by_name[name].disk_bytes, by_name[name].flops) == (0, 0, 0), name
        assert by_name[name].found
    assert plan.core_share is None  # nothing went through a model
    assert {path: path.stat().st_mtime_ns for path in (finished / "ws").rglob("*")} == before


def test_of_a_store_filled_in_part_the_rest_counts(planned: Planner, workspace: Path) -> None:
    folder = workspace
    store = max((folder / "features").iterdir(), key=_bytes)
    shard = sorted(store.glob("*.safetensors"))[0]
    shard.unlink()
    by_name = _stages(planned(workspace=str(folder)))
    left = [stage for name, stage in by_name.items() if name.startswith("pool") and stage.n_rows]
    assert [(stage.n_rows + stage.found, 0 < stage.n_rows < 20) for stage in left] == [(20, True)]
    assert by_name["score"].n_rows == 18  # what a row is missing from cannot be known to be scored


@pytest.mark.parametrize(
    ("method", "n_stores"),
    [
        ("rds", 2),
        ("loss", 1),
        ("ifd", 2),
        ("bm25", 0),
        ("dsir", 0),
        ("ngrams", 2),
        ("random", 0),
        ("tagcos", 4),
        ("less+round_robin", 4),
        ("less+knn_kde", 4),
        ("less+unbalanced_transport", 4),
        ("rds+facility_location", 2),
        ("rds+k_center", 2),
    ],
)
def test_every_method_can_be_planned(planned: Planner, method: str, n_stores: int) -> None:
    plan = planned(pick__method=method)
    by_name = _stages(plan)
    stores = [stage for name, stage in by_name.items() if " features " in name]
    assert len(stores) == n_stores
    assert all(stage.seconds > 0 and stage.disk_bytes > 0 for stage in stores)
    assert ("warm up" in by_name) == (method.startswith(("less", "tagcos")))
    assert plan.seconds > 0
    assert plan.refused == ()


def test_embeddings_can_be_planned(planned: Planner, encoder: str) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")
    by_name = _stages(planned(pick__method="embed", represent__encoder=encoder, model__name=None))
    assert by_name["pool features 1/1"].flops > 0
    assert by_name["pool features 1/1"].n_rows == 21 - 1


def test_without_epochs_and_with_checkpoints_of_before(planned: Planner, finished: Path) -> None:
    untrained = _stages(planned(warmup__epochs=0))
    assert untrained["warm up"].flops == 0
    assert [name for name in untrained if name.startswith("pool")] == ["pool features 1/1"]
    (folder,) = [path.parent for path in (finished / "ws" / "checkpoints").glob("*/epoch-1")]
    given = _stages(planned(warmup__checkpoints=str(folder), represent__checkpoints=[-1]))
    assert given["warm up"].found == 1
    assert [name for name in given if name.startswith("pool")] == ["pool features 1/1"]


def test_a_similarity_of_one_s_own(planned: Planner, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).random((4, 21)))
    names = list(_stages(planned(pick__similarity=str(tmp_path / "own.npy"), pick__method="top_k")))
    assert names == ["start and read", "pick", "write"]


def test_workers_share_the_features_and_the_bill(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    given = {**settings, "workspace": str(tmp_path / "ws"), "engine.workers": 3}
    plan = make(load_config(None, given), price=2.0, probe_seconds=0.05)
    assert plan.n_workers == 3
    assert plan.cost == pytest.approx(2.0 * plan.seconds / 3600 * 3)
    assert any("3 workers" in sentence for sentence in plan.assumed)


def test_limit_and_budget_are_heeded(planned: Planner) -> None:
    plan = planned(data__limit=5, pick__budget="8tok")
    assert plan.pool.n_rows == 5
    assert 1 <= _stages(plan)["write"].n_rows < 5


def test_the_plan_as_json_has_all_of_it(planned: Planner) -> None:
    tree = json.loads(json.dumps(planned(pick__method="bm25").to_json()))
    assert {"method", "pool", "target", "stages", "seconds", "flops", "disk_bytes", "host_bytes"} <= tree.keys()
    assert {"name", "n_rows", "n_tokens", "found", "flops", "seconds", "disk_bytes"} <= tree["stages"][0].keys()
    assert tree["seconds"] == pytest.approx(sum(stage["seconds"] for stage in tree["stages"]))
    assert tree["cost"] is None
    assert tree["assumed"]


# ---- samples -------------------------------------------------------------------------------------------------------


def test_a_sample_stands_for_the_pool_within_its_error() -> None:
    lengths = np.random.default_rng(0).integers(5, 500, 600).tolist()
    pool = Pool.of(Example.of([Message("user", f"{n} {i}")], source="", row=n) for i, n in enumerate(lengths))

    def read(example: Example) -> Words:
        return Words("", example.row)

    everything = lengths_of(pool, read, 0)
    assert everything.is_exact
    assert (everything.n_tokens, everything.standard_error) == (sum(lengths), 0)
    errors = []
    for seed in range(100):
        some = lengths_of(pool, read, seed, n_sample=150)
        assert (some.n_rows, len(some.items)) == (600, 150)
        errors.append((some.n_tokens - sum(lengths)) / some.standard_error)
    assert 0.8 < np.std(errors) < 1.2  # they are standard errors
    assert abs(np.mean(errors)) < 0.3


def test_a_large_pool_is_planned_from_a_sample(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SAMPLE_ROWS", 12)
    plan = planned()
    assert (plan.pool.n_rows, plan.pool.n_tokenised) == (20, 12)
    assert plan.pool.standard_error > 0
    assert any("12 random rows of 20" in sentence for sentence in plan.assumed)
    assert _stages(plan)["pool features 1/2"].n_rows == 20


def test_any_beginning_is_spread_evenly() -> None:
    order = evenly(list(range(100)))
    assert sorted(order) == list(range(100))
    for n in (2, 4, 8, 16):
        gaps = np.diff(sorted([*order[:n], 100]))
        assert gaps.max() <= 2 * 100 / n


def test_a_line_through_two_sizes() -> None:
    assert line(2.0, 4.0, 10, 20, 40) == 8.0
    assert line(4.0, 4.0, 10, 20, 40) == 4.0
    assert line(5.0, 4.0, 10, 20, 40) == 4.0  # noise: it does not fall
    assert line(4.0, 4.0, 20, 20, 15) == 4.0
    assert line(4.0, 4.0, 20, 20, 40) == 8.0


# ---- wrong input ---------------------------------------------------------------------------------------------------


def test_wrong_input_is_one_sentence(settings: dict[str, Any], planned: Planner, tmp_path: Path) -> None:
    config = load_config(None, settings)
    for seconds in (0.0, 31.0, -1.0):
        with pytest.raises(InputError, match="--probe-seconds: expected up to 20, got"):
            make(config, probe_seconds=seconds)
    with pytest.raises(InputError, match="--price: expected the price of an hour"):
        make(config, price=-1.0)
    with pytest.raises(InputError, match="no such file"):
        planned(data__pool=str(tmp_path / "missing.jsonl"))
    with pytest.raises(ModelError, match="there is no such folder"):
        planned(model__name=str(tmp_path / "no model"))
    with pytest.raises(InputError, match="no model given"):
        planned(model__name=None)
    with pytest.raises(InputError, match="no target given"):
        planned(data__target=[], pick__method="less")
