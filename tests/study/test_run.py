"""A study end to end on the tiny model: what is computed, what is found again, what a killed one leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tamis.config import load_config
from tamis.errors import DamagedError, InputError, ModelError
from tamis.evaluation.loss import losses
from tamis.finetuning import Training, training_rows
from tamis.inputs import Inputs
from tamis.pipeline import Pipeline
from tamis.selectors import round_robin
from tamis.study import tables
from tamis.study.distances import mean_nearest, wasserstein
from tamis.study.run import Study
from tamis.study.selecting import length_matched
from tamis.study.settings import load_study
from tamis.verify import verify_folder

Cli = Callable[..., Any]
TRAINING = {
    "finetune.epochs": 2,
    "finetune.learning_rate": 1e-2,
    "finetune.batch_size": 4,
    "finetune.micro_batch_size": 2,
    "finetune.lora_rank": 4,
    "finetune.lora_alpha": 8,
    "finetune.lora_dropout": 0.0,
}
GRID = {
    "study.title": "which finds <the> rows?",
    "study.methods": ["less", "rds+top_k", "bm25"],
    "study.baselines": list(tables.BASELINES),
    "study.budgets": ["4", "6"],
    "study.seeds": [0, 1],
    "study.quantile": {"representations": ["rds"], "bins": 3, "rows": 4},
}
# zero-shot, full pool with one seed; at each of 2 budgets 3 methods and 3 baselines, with 2 seeds; 3 bins with 2 seeds
QUERY = "the query rows' file"
N_CELLS = 1 + 1 + 2 * 6 * 2 + 3 * 2


@pytest.fixture(scope="module")
def grid(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A study with one target and its test rows."""
    folder = tmp_path_factory.mktemp("rows")
    lines = Path(settings["data.target"]).read_text().splitlines()
    (folder / "query.jsonl").write_text("\n".join(lines[:3]))
    test = [("How much is 6 and 2?", "It is 8."), ("Write a line about the fog.", "O fog, how you shine.")]
    rows = [{"id": f"e{k}", "prompt": p, "completion": c} for k, (p, c) in enumerate(test)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    target = {"query": str(folder / "query.jsonl"), "test": str(folder / "test.jsonl"), "task": "exact_match"}
    of_run = {key: value for key, value in settings.items() if key not in ("data.target", "pick.budget")}
    return {**of_run, **TRAINING, **GRID, "study.targets": {"few": target}, "evaluate.max_new_tokens": 4}


@pytest.fixture(scope="module")
def done(grid: dict[str, Any], recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with workspace `ws` and study `out` of the whole grid. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    shown = recorder()
    Study(load_study(None, {**grid, "workspace": str(folder / "ws")}), shown).run(folder / "out")
    assert f"cells: 0 found, {n_kept(folder)} to compute" in " ".join(shown.notes)
    assert N_CELLS - 2 <= n_kept(folder) <= N_CELLS  # of so few rows, two samples may be the same
    return folder


def n_kept(folder: Path) -> int:
    """Cells in the workspace."""
    return len(list((folder / "ws" / "cells").glob("*.json")))


@pytest.fixture
def again(done: Path, tmp_path: Path, recorder: Any) -> Callable[..., tuple[Path, Any]]:
    """again(grid, **changes): the study once more over a copy of the finished workspace."""
    shutil.copytree(done / "ws", tmp_path / "ws")

    def run(grid: dict[str, Any], **changes: Any) -> tuple[Path, Any]:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        shown = recorder()
        study = Study(load_study(None, {**grid, "workspace": str(tmp_path / "ws"), **named}), shown)
        study.run(tmp_path / "out")
        return tmp_path / "out", shown

    return run


def table(folder: Path, name: str = "results.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name, keep_default_na=False)


# ---- what is computed ------------------------------------------------------------------------------------------------


def test_every_cell_has_a_line(done: Path) -> None:
    results = tables.read(done / "out").results
    assert len(results) == N_CELLS
    assert results["target_loss"].notna().all()
    assert results["test_loss"].notna().all()
    assert results["score"].between(0, 1).all()
    counted = results.groupby(["experiment", "method"])["seed"].count().to_dict()
    assert counted == {
        ("budget", "zero-shot"): 1,
        ("budget", "full pool"): 1,
        **{("budget", name): 4 for name in ("less", "rds+top_k", "bm25", *tables.BASELINES[1:4])},
        ("quantile", "rds"): 6,
    }
    budget = results[results["experiment"] == "budget"]
    of_six = budget[(budget["budget"] == "6")].groupby("method")["n_examples"].agg(list)
    assert all(of_six[name] == [6, 6] for name in ("less", "rds+top_k"))
    assert all(4 <= n <= 6 for n in of_six["random"])  # two rows of the pool cannot be trained on
    assert budget.set_index("method").loc["zero-shot", "n_examples"] == 0
    assert budget.set_index("method").loc["full pool", "n_examples"] == 18
    assert tables.read(done / "out").manifest["n_pending"] == 0


@pytest.mark.parametrize("method", ["less", "bm25"])
def test_a_cell_is_select_finetune_evaluate_by_hand(
    done: Path, grid: dict[str, Any], tmp_path: Path, method: str
) -> None:
    study = load_study(None, {**grid, "workspace": str(tmp_path / "ws")})
    config = study.run("model", "few", "6", method)
    selection = Pipeline(config).pick()
    inputs = Inputs(config, lambda _: None)
    model = Training(config, inputs, training_rows(inputs, selection.examples), seed=1).run(tmp_path / "t")
    read = [load_config(None, {"data.pool": study.study.targets["few"].test}).data.pool]
    test = Inputs(load_config(None, {**{k: grid[k] for k in ("model.name",)}, "data.pool": read[0]}), lambda _: None)
    expected = losses(model, [test.encode(example) for example in test.pool])
    found = tables.read(done / "out")
    of_cell = found.examples.query(f"method == '{method}' and budget == '6' and seed == 1")
    np.testing.assert_allclose(of_cell["loss"], expected, rtol=1e-6)
    line = found.results.query(f"method == '{method}' and budget == '6' and seed == 1")
    assert line["test_loss"].item() == pytest.approx(expected.mean(), rel=1e-6)
    picked = pd.read_parquet(done / "out" / "picks.parquet").query(f"method == '{method}' and budget == '6'")
    assert list(picked["id"]) == selection.ids


def test_baselines_are_what_they_are_called(done: Path, grid: dict[str, Any]) -> None:
    picks = pd.read_parquet(done / "out" / "picks.parquet").query("experiment == 'budget'")
    config = load_study(None, grid)
    for seed in (0, 1):
        by_hand = Pipeline(config.run("model", "few", "6", "random", seed, plain=True)).pick()
        assert list(picks.query(f"method == 'random' and budget == '6' and seed == {seed}")["id"]) == by_hand.ids
        balanced = picks.query(f"method == 'random balanced' and budget == '6' and seed == {seed}")
        assert set(balanced["source"].value_counts()) == {2}
    assert (picks["method"] == "full pool").sum() == 0  # all rows: no need to name them


def test_bins_are_round_robins_order_with_its_distances(done: Path, grid: dict[str, Any]) -> None:
    run = Pipeline(
        load_study(None, {**grid, "workspace": str(done / "ws")}).run("model", "few", method="rds", plain=True)
    )
    scored = run.score()
    order = round_robin(scored.values, n_examples=len(scored.pool)).indices
    picks = pd.read_parquet(done / "out" / "picks.parquet").query("experiment == 'quantile'")
    results = tables.read(done / "out").results.query("experiment == 'quantile' and seed == 0").set_index("bin")
    for number, places in enumerate(np.array_split(order, 3)):
        first = places[:4]
        of_bin = picks[(picks["bin"] == number) & (picks["method"] == "rds")]
        assert list(of_bin["id"])[:4] == [scored.pool[int(place)].id for place in first]
        assert results.loc[number, "mean_nearest"] == pytest.approx(mean_nearest(scored.values[:, first]))
        assert results.loc[number, "wasserstein"] == pytest.approx(wasserstein(scored.values[:, first]))
    assert results["mean_nearest"].is_monotonic_increasing


def test_costs_are_measured_and_shared_work_counts_for_each(done: Path) -> None:
    costs = tables.read(done / "out").costs.set_index(["method", "stage"])
    for stage in ("warm up", "represent", "score", "pick", "fine-tune", "evaluate"):
        assert costs.loc[("less", stage), "seconds"] > 0
    assert costs.loc[("less", "represent"), "flops"] > costs.loc[("rds+top_k", "represent"), "flops"] > 0
    assert costs.loc[("less", "represent"), "bytes"] > costs.loc[("rds+top_k", "represent"), "bytes"] > 0
    assert ("bm25", "represent") not in costs.index
    assert ("zero-shot", "fine-tune") in costs.index


def test_the_page_escapes_what_data_say(done: Path) -> None:
    page = (done / "out" / "report.html").read_text()
    assert "which finds &lt;the&gt; rows?" in page
    assert "<the>" not in page


# ---- what is found again ---------------------------------------------------------------------------------------------


def test_once_more_computes_nothing_and_gives_the_same_tables(
    done: Path, grid: dict[str, Any], again: Callable[..., tuple[Path, Any]]
) -> None:
    out, shown = again(grid)
    assert "fine-tune and test" not in shown.stages
    assert not {"warm up", "pick"} & set(shown.stages)
    for name in ("results.csv", "examples.parquet", "picks.parquet", "composition.csv", "shown.json"):
        assert (out / name).read_bytes() == (done / "out" / name).read_bytes()


def test_another_method_computes_its_own_cells_alone(
    done: Path, grid: dict[str, Any], again: Callable[..., tuple[Path, Any]]
) -> None:
    methods = ["less", "less+round_robin", "rds+top_k", "bm25"]
    out, shown = again(grid, study__methods=methods)
    [said] = [note for note in shown.notes if note.startswith("cells:")]
    assert said.startswith(f"cells: {n_kept(done)} found, 4 to compute")
    assert not {"warm up", "pool features 1/2", "score"} & set(shown.stages)
    before, after = table(done / "out"), table(out)
    kept = after[after["method"] != "less+round_robin"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)


def test_a_setting_of_the_training_makes_other_cells(
    done: Path, grid: dict[str, Any], again: Callable[..., tuple[Path, Any]]
) -> None:
    less = {"study__methods": ["bm25"], "study__budgets": ["4"], "study__baselines": [], "study__quantile": None}
    _, shown = again(grid, **less, finetune__learning_rate=5e-3)
    assert any(note.startswith("cells: 0 found, 2 to compute") for note in shown.notes)
    _, shown = again(grid, **less)
    assert any(note.startswith("cells: 2 found, 0 to compute") for note in shown.notes)


def test_a_method_may_train_in_its_own_way(
    grid: dict[str, Any], again: Callable[..., tuple[Path, Any]], done: Path
) -> None:
    methods = {"bm25": {}, "short": {"pick.method": "bm25", "finetune.epochs": 1}}
    out, _ = again(grid, study__methods=methods, study__baselines=[], study__quantile=None, study__budgets=["6"])
    steps = table(out).groupby("method")["n_steps"].agg(set)
    assert steps.to_dict() == {"bm25": {4}, "short": {2}}
    assert list(pd.read_parquet(out / "picks.parquet").groupby("method")["id"].agg(list)["short"]) == list(
        pd.read_parquet(done / "out" / "picks.parquet").query("method == 'bm25' and budget == '6'")["id"]
    )


def test_another_answer_key_is_another_test(grid: dict[str, Any], again: Any, tmp_path: Path) -> None:
    few = grid["study.targets"]["few"]
    small = {"study__methods": [], "study__baselines": ["zero-shot"], "study__quantile": None}
    for number, answers in enumerate((["nothing"], ["nothing", "else"])):
        row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
        (tmp_path / "test.jsonl").write_text(json.dumps({**row, "meta": {"answers": answers}}))
        shutil.rmtree(tmp_path / "ws", ignore_errors=True) if not number else None
        _, shown = again(grid, **small, study__targets={"few": {**few, "test": str(tmp_path / "test.jsonl")}})
        assert any(note.startswith("cells: 0 found, 1 to compute") for note in shown.notes)


def test_included_rows_are_known_by_what_the_file_says(grid: dict[str, Any], again: Any, tmp_path: Path) -> None:
    methods = {"with": {"pick.method": "bm25", "pick.include": str(tmp_path / "ids.txt")}}
    for name in ("p5", "p6"):
        (tmp_path / "ids.txt").write_text(name)
        out, _ = again(
            grid,
            study__methods=methods,
            study__baselines=[],
            study__quantile=None,
            study__budgets=["4"],
            study__seeds=[0],
        )
        assert pd.read_parquet(out / "picks.parquet")["row_id"][0] == name


def test_a_training_that_fails_does_not_keep_others_from_theirs(
    grid: dict[str, Any], again: Any, tmp_path: Path
) -> None:
    methods = {"bm25": {}, "wild": {"pick.method": "bm25", "finetune.learning_rate": 1e20}}
    with pytest.raises(
        ModelError,
        match=r"2 trainings failed, and (.*) is of the others; the first: wild 4, seed 0, model: the loss is nan",
    ):
        again(grid, study__methods=methods, study__baselines=[], study__quantile=None, study__budgets=["4"])
    found = tables.read(tmp_path / "out")
    assert set(found.results["method"]) == {"bm25"}
    assert found.manifest["n_pending"] == 2


def test_an_interrupt_while_selecting_stops_at_once(grid: dict[str, Any], tmp_path: Path, recorder: Any) -> None:
    stopped = recorder(("warm up", 1))
    with pytest.raises(KeyboardInterrupt):
        Study(load_study(None, {**grid, "workspace": str(tmp_path / "ws")}), stopped).run(tmp_path / "out")
    assert stopped.stages == ["read", "filter", "warm up"]


def test_rows_are_as_long_as_those_wanted() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4, 1, 10_000).astype(np.int64)
    longest, some = np.sort(lengths)[-100:], rng.choice(lengths, 300)
    for wanted in (longest, some, np.array([5, 5, 5])):
        taken = length_matched(lengths, wanted, seed=1)
        assert len(set(taken)) == len(wanted)
        assert np.abs(np.mean(lengths[taken]) / np.mean(wanted) - 1) < 0.25
        assert list(taken) == list(length_matched(lengths, wanted, seed=1)) != list(length_matched(lengths, wanted, 2))
    assert sorted(length_matched(np.array([3, 1, 2]), np.array([9, 9, 9]), 0)) == [0, 1, 2]


def test_targets_share_a_training(grid: dict[str, Any], again: Callable[..., tuple[Path, Any]]) -> None:
    few = grid["study.targets"]["few"]
    targets = {"few": few, "same": {**few, "task": "loss"}}
    small = {"study__methods": [], "study__baselines": ["random", "zero-shot"], "study__quantile": None}
    out, shown = again(grid, **small, study__targets=targets, study__seeds=[5], study__budgets=["5"])
    assert any("4 to compute in 2 trainings" in note or "3 to compute in 2 trainings" in note for note in shown.notes)
    results = table(out).set_index(["target", "method"])
    assert results.loc[("few", "random"), "test_loss"] == results.loc[("same", "random"), "test_loss"]


def test_a_damaged_cell_is_named(grid: dict[str, Any], done: Path, again: Any, tmp_path: Path) -> None:
    for name in ("cells", "selections"):
        path = next((tmp_path / "ws" / name).glob("*.json"))
        path.write_text(path.read_text().replace("1", "2", 1))
        with pytest.raises(DamagedError, match=path.name):
            again(grid)
        n_whole, [(aside, reason)] = verify_folder(tmp_path / "ws")
        assert n_whole > n_kept(done)
        assert aside == path.with_name(path.name + ".damaged")
        assert "its checksum is another" in reason
    out, _ = again(grid)
    assert (out / "results.csv").read_bytes() == (done / "out" / "results.csv").read_bytes()


# ---- kill ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_cells", [2, 9])
def test_a_killed_study_goes_on(done: Path, grid: dict[str, Any], tmp_path: Path, n_cells: int) -> None:
    """kill -9 once some cells are there; the same command repeats none of them, and its tables are the same."""
    tree: dict[str, Any] = {}
    for key, value in {**grid, "workspace": str(tmp_path / "ws")}.items():
        group, _, name = key.partition(".")
        if name:
            tree.setdefault(group, {})[name] = value
        else:
            tree[key] = value
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    # No training and no selector again: what a finished study left, but for its cells
    shutil.copytree(done / "ws", tmp_path / "ws", ignore=shutil.ignore_patterns("cells"))
    command = [sys.executable, "-m", "tamis.cli", "study", "study.yaml", "--out", "out", "--progress", "plain"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    cells = tmp_path / "ws" / "cells"
    deadline = time.monotonic() + 300
    while len(list(cells.glob("*.json"))) < n_cells and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in cells.glob("*.json")}
    assert n_cells <= len(before) < n_kept(done)
    went_on = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600)
    assert f"cells: {len(before)} found, {n_kept(done) - len(before)} to compute" in went_on.stderr
    assert {name: (cells / name).read_bytes() for name in before} == before
    for name in ("results.csv", "examples.parquet", "picks.parquet", "composition.csv", "shown.json"):
        assert (tmp_path / "out" / name).read_bytes() == (done / "out" / name).read_bytes()


def test_an_interrupted_study_says_that_its_report_is_a_part(
    grid: dict[str, Any], tmp_path: Path, recorder: Any
) -> None:
    small = {
        **grid,
        "study.methods": ["bm25"],
        "study.quantile": None,
        "study.budgets": ["4"],
        "workspace": str(tmp_path / "ws"),
    }
    stopped = recorder(("fine-tune and test", 9))
    with pytest.raises(KeyboardInterrupt):
        Study(load_study(None, small), stopped).run(tmp_path / "out")
    found = tables.read(tmp_path / "out")
    assert found.manifest["n_pending"] == 10 - len(found.results) > 0
    assert f"Partial: {len(found.results)} of 10 cells are finished" in (tmp_path / "out" / "report.html").read_text()


# ---- what cannot be --------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(grid: dict[str, Any], tmp_path: Path, recorder: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.csv").write_text("my results")
    shown = recorder()
    with pytest.raises(InputError, match="something else than a study"):
        Study(load_study(None, {**grid, "workspace": str(tmp_path / "ws")}), shown).run(tmp_path / "mine")
    assert not shown.stages
    assert (tmp_path / "mine" / "results.csv").read_text() == "my results"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.max_new_tokens": 96}, "max_new_tokens"),
        ({"study.targets": {"a": {"query": QUERY, "test": QUERY}}}, "3 rows stand among query and test rows"),
        ({"study.targets": {"a": {"query": QUERY, "test": "none.jsonl"}}}, "none.jsonl: no such file"),
        ({"study.quantile": {"representations": ["rds"], "bins": 3, "rows": 9}}, "6 a bin, expected at least"),
    ],
)
def test_what_cannot_be_run_is_known_before_any_training(
    grid: dict[str, Any], done: Path, tmp_path: Path, recorder: Any, changes: dict[str, Any], said: str
) -> None:
    changes = json.loads(json.dumps(changes).replace(QUERY, grid["study.targets"]["few"]["query"]))
    shutil.copytree(done / "ws", tmp_path / "ws", ignore=shutil.ignore_patterns("cells"))
    shown = recorder()
    with pytest.raises(InputError, match=said):
        Study(load_study(None, {**grid, "workspace": str(tmp_path / "ws"), **changes}), shown).run(tmp_path / "out")
    assert "fine-tune and test" not in shown.stages


def test_the_command(cli: Cli, grid: dict[str, Any], tmp_path: Path) -> None:
    small = {**grid, "study.methods": ["bm25"], "study.quantile": None, "study.budgets": ["4"], "study.seeds": [0]}
    arguments = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    said = cli("study", *arguments, "--out", tmp_path / "out", "--workspace", tmp_path / "ws").stdout
    assert f"written to {tmp_path / 'out'}: report.html" in said
    assert "expected one YAML file" in cli("study", "a.yaml", "b.yaml", code=2).stderr
    assert "a.yaml: cannot read" in cli("study", "a.yaml", code=2).stderr
