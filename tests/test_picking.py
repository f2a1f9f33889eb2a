"""Filters, constraints, several targets and similarities of one's own, end to end on the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.config import load_config
from tamis.errors import InputError
from tamis.methods import SELECTORS
from tamis.pipeline import Pipeline


@pytest.fixture
def run(settings: dict[str, Any], workspace: Path) -> Callable[..., Pipeline]:
    def make(**changes: Any) -> Pipeline:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return Pipeline(load_config(None, {**settings, "workspace": str(workspace), **named}))

    return make


def ids(selection: Any) -> list[str]:
    return [example.row_id for example in selection.examples]


def lines(path: Path, *texts: str) -> str:
    path.write_text("\n".join(texts) + "\n")
    return str(path)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_by_its_method(run, name: str) -> None:
    """Alone where it compares with no target, joined with the gradient else; and over the whole ranking."""
    alone = "similarity" not in SELECTORS[name].needs
    for method in [name] * alone + [f"less+{name}"] * (name != "random"):
        target = {} if method != name else {"data__target": []}
        budget = "50%"
        pipeline = run(pick__method=method, pick__budget=budget, **target)
        selection = pipeline.pick()
        assert len(set(ids(selection))) == len(selection) == int(0.5 * selection.manifest["n_usable"])
        assert (selection.weights is not None) == (name in ("tagcos", "matching_pursuit"))
        assert len(run(pick__method=method, pick__budget="100%", **target).pick()) == selection.manifest["n_usable"]


@pytest.mark.parametrize("name", ["tagcos", "less+top_k", "less+knn_kde", "random", "bm25+round_robin"])
def test_constraints_hold_over_every_kind_of_selector(run, tmp_path: Path, name: str) -> None:
    given = {
        "pick__method": name,
        "pick__budget": 8,
        "pick__include": lines(tmp_path / "in", "p5"),
        "pick__exclude": lines(tmp_path / "ex", "p1", "p2", "nowhere"),
        "pick__quotas": {"sums": 3},
        "pick__floors": {"lines": "25%"},
        "data__target": [] if name in ("tagcos", "random") else load_target(run),
    }
    selection = run(**given).pick()
    sources = [example.source for example in selection.examples]
    assert ids(selection)[0] == "p5"
    assert selection.scores[0] is None
    assert not {"p1", "p2"} & set(ids(selection))
    assert len(selection) == 8
    assert sources.count("sums") <= 3
    assert sources.count("lines") >= 2
    summary = " | ".join(selection.manifest["constraints"])
    assert "included: 1 row" in summary
    assert f"quota of sums: {sources.count('sums')} of at most 3 rows" in summary
    assert f"floor of lines: {sources.count('lines')} of at least 2 rows" in summary
    assert {row["reason"] for row in selection.manifest["left_out"]["pool, excluded"]} == {"in pick.exclude"}


def load_target(run: Callable[..., Pipeline]) -> list[str]:
    return run().config.data.target


def test_a_walk_over_a_nested_method_is_the_walk_over_its_complete_ranking(run) -> None:
    complete = ids(run(pick__method="less", pick__budget="100%").pick())
    source = {e.row_id: e.source for e in run().inputs.pool}
    taken, n_sums = [], 0
    for row in complete:
        if len(taken) < 6 and not (source[row] == "sums" and n_sums == 1):
            taken.append(row)
            n_sums += source[row] == "sums"
    assert ids(run(pick__method="less", pick__budget=6, pick__quotas={"sums": 1}).pick()) == taken


def test_length_bounds(run) -> None:
    tokens = {e.row_id: run().inputs.n_supervised(e) for e in run().inputs.pool}
    low, high = sorted(set(tokens.values()))[1], sorted(set(tokens.values()))[-2]
    selection = run(pick__method="random", pick__budget="100%", pick__min_tokens=low, pick__max_tokens=high).pick()
    assert set(ids(selection)) == {row for row, n in tokens.items() if low <= n <= high}
    assert selection.manifest["left_out"]["pool, of another length"]


def test_two_targets_by_weight(run, target_file: Path, tmp_path: Path) -> None:
    rows = target_file.read_text().splitlines()
    sums, other = (lines(tmp_path / f"{name}.jsonl", *part) for name, part in (("a", rows[:2]), ("b", rows[2:])))
    given = {"sums": {"files": sums, "weight": 2}, "lines": {"files": other}}
    for method in ("less", "less+round_robin", "bm25"):
        selection = run(data__target=[], data__targets=given, pick__method=method, pick__budget=9).pick()
        takers = selection.taken_by
        assert len(selection) == 9
        assert sum(name in ("t1", "t2") for name in takers) == 6
        assert sum(name in ("t3", "t4") for name in takers) == 3
        assert "target sums, 66.7% of the budget: 6 rows" in selection.manifest["constraints"]
    alone = run(data__target=sums, pick__method="bm25", pick__budget="100%").pick()
    mine = [row for row, name in zip(ids(selection), takers, strict=True) if name in ("t1", "t2")]
    assert mine[0] == ids(alone)[0]  # the heavier target takes first
    assert mine == [row for row in ids(alone) if row in mine]  # and goes down its own ranking


def test_two_targets_of_a_pursuit_each_with_its_own_goal(run, target_file: Path, tmp_path: Path) -> None:
    rows = target_file.read_text().splitlines()
    files = {name: lines(tmp_path / f"{name}.jsonl", *part) for name, part in (("a", rows[:2]), ("b", rows[2:]))}
    pursuit = {"pick__method": "less+matching_pursuit", "pick__budget": 1}
    firsts = [ids(run(data__target=file, **pursuit).pick())[0] for file in files.values()]
    assert firsts[0] != firsts[1]
    given = {name: {"files": file} for name, file in files.items()}
    selection = run(data__target=[], data__targets=given, **{**pursuit, "pick__budget": 2}).pick()
    assert ids(selection) == firsts
    assert "target b, 50.0% of the budget: 1 row" in selection.manifest["constraints"]


def test_a_method_that_does_not_look_at_the_target_says_so(run, recorder) -> None:
    pipeline = run(pick__method="random")
    pipeline.progress = recorder()
    pipeline.pick()
    assert "random does not look at the target, but for leaks" in pipeline.progress.notes


def test_the_words_of_a_leak_are_not_taken_for_another_reason(run, tmp_path: Path) -> None:
    text = "in pick.exclude are 9 supervised tokens of the most unusual kind that nobody has ever seen"
    row = lines(
        tmp_path / "p.jsonl", json.dumps({"prompt": text, "completion": "a"}), '{"prompt":"b","completion":"c"}'
    )
    test = lines(tmp_path / "t.jsonl", json.dumps({"prompt": text, "completion": "b"}))
    pipeline = run(data__pool=row, data__target=[], data__evaluation=test, pick__method="random")
    left_out = pipeline.pick().manifest["left_out"]
    assert list(left_out) == ["pool, leaked"]


def test_targets_on_the_command_line(cli, run, target_file: Path, pool_file: Path, tmp_path: Path) -> None:
    words = ("select", "--pool", pool_file, "--method", "bm25", "--budget", "4", "--workspace", tmp_path / "ws")
    result = cli(*words, "--target", f"a={target_file}", "--target", f"b={target_file}", "--out", tmp_path / "out")
    assert "target a, 50.0% of the budget: 2 rows" in result.output
    table = pq.read_table(tmp_path / "out" / "picks.parquet")
    assert len(set(table["id"].to_pylist())) == 4
    assert "target a, 50.0% of the budget" in (tmp_path / "out" / "report.html").read_text()
    result = cli(*words, "--target", f"a={target_file}", "--target", target_file, code=2)
    assert "name every target or none" in result.output
    again = cli("select", tmp_path / "out" / "config.yaml", "--out", tmp_path / "again")
    assert "picked 4" in again.output
    same = (tmp_path / "again" / "selected.jsonl").read_bytes()
    assert same == (tmp_path / "out" / "selected.jsonl").read_bytes()


def test_leaks_are_reported_and_left_out_unless_kept(cli, pool_file: Path, target_file: Path, tmp_path: Path) -> None:
    text = " ".join(f"word{k}" for k in range(20))
    test = lines(tmp_path / "test.jsonl", json.dumps({"prompt": text, "completion": "<b>yes</b>"}))
    pool = tmp_path / "pool.jsonl"
    planted = json.dumps({"prompt": "Say " + text, "completion": "no", "id": "planted"})
    pool.write_text(pool_file.read_text() + "\n" + planted + "\n")
    words = ("select", "--pool", pool, "--method", "random", "--budget", "100%", "--evaluation", test)
    result = cli(*words, "--out", tmp_path / "out")
    assert f"pool, leaked: 1 row: {pool} row 23: shares 'word0 word1" in result.output
    assert "planted" not in (tmp_path / "out" / "selected.jsonl").read_text()
    result = cli(*words, "--out", tmp_path / "kept", "--keep-leaks")
    assert "pool, leaked and kept all the same: 1 row" in result.output
    assert "planted" in (tmp_path / "kept" / "selected.jsonl").read_text()
    include = lines(tmp_path / "in", "planted")
    result = cli(*words, "--include", include, "--out", tmp_path / "no", code=2)
    assert "planted is to be taken, but is no candidate: shares 'word0" in result.output


def test_near_duplicates_are_passed_over(cli, tmp_path: Path) -> None:
    text = [f"w{k}" for k in range(60)]
    rows = [" ".join(text), " ".join([*text[:-1], "z"]), "something else entirely, in other words than those"]
    pool = lines(tmp_path / "p.jsonl", *(json.dumps({"prompt": t, "completion": "x"}) for t in rows))
    target = lines(tmp_path / "t.jsonl", json.dumps({"prompt": " ".join(text[:10]), "completion": "x"}))
    words = ("select", "--pool", pool, "--target", target, "--method", "bm25", "--out", tmp_path / "out")
    words += ("--keep-leaks", "pick.near_duplicates=0.8")
    assert "near-duplicates of a pick: 1 row passed over" in cli(*words, "--budget", "2").output
    result = cli(*words, "--budget", "3", code=2)
    assert (
        "the budget of 3 rows cannot be filled: 2 can be taken (near-duplicates of a pick: 1 row passed over)"
        in result.output
    )


# ---- a similarity of one's own -------------------------------------------------------------------------------------


def test_a_similarity_of_ones_own(cli, run, pool_file: Path, tmp_path: Path) -> None:
    """A column for every row that can be read, also for the one equal to another, which is no candidate."""
    rows = run().inputs.pool_rows
    values = np.random.default_rng(0).standard_normal((3, len(rows)))
    np.save(tmp_path / "S.npy", values)
    words = (
        "pick",
        "--similarity",
        tmp_path / "S.npy",
        "--pool",
        pool_file,
        "--budget",
        "3",
        "--out",
        tmp_path / "out",
    )
    for memory in ("8GB", "0.001KB"):
        cli(*words, "--method", "doubly_greedy", "--memory", memory)
        table = pq.read_table(tmp_path / "out" / "picks.parquet")
        keep = [k for k, e in enumerate(rows) if e.row_id != "again"]
        best = sorted(keep, key=lambda k: -values[:, k].max())[:3]
        assert table["row_id"].to_pylist() == [rows[k].row_id for k in best]
        assert table["score"].to_pylist() == pytest.approx([values[:, k].max() for k in best])
    np.save(tmp_path / "S.npy", values[:, 1:])
    assert "expected a column for each of the 21 rows" in cli(*words, code=2).output
    assert "looks at the pool's feature rows too" in cli(*words, "--method", "knn_kde", code=2).output
    assert "cannot pick from a similarity alone" in cli(*words, "--method", "less", code=2).output


def test_a_scored_similarity_by_its_ids(cli, run, pool_file: Path, tmp_path: Path) -> None:
    scored = run(pick__method="less").score()
    words = ("pick", "--similarity", scored.path, "--method", "top_k", "--budget", "3", "--out", tmp_path / "out")
    few = lines(tmp_path / "few.jsonl", *pool_file.read_text().splitlines()[:3])
    cli(*words, "--pool", few)
    table = pq.read_table(tmp_path / "out" / "picks.parquet")
    columns = {e.row_id: k for k, e in enumerate(scored.pool)}
    means = [float(scored.values[:, columns[row]].mean(dtype=np.float64)) for row in table["row_id"].to_pylist()]
    assert table["score"].to_pylist() == pytest.approx(means)
    other = lines(tmp_path / "other.jsonl", json.dumps({"prompt": "new", "completion": "row"}))
    assert "no column has the id of" in cli(*words, "--pool", other, code=2).output


# ---- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pick__quotas": {"sum": 3}}, r"pick.quotas: no candidate is of the source 'sum'; .*did you mean sums\?"),
        ({"pick__floors": {"sums": 400}}, r"pick.floors.sums: 400 of sums are asked for, and the pool has \d+"),
        (
            {"pick__floors": {"sums": 3}, "pick__quotas": {"sums": 2}},
            "pick.floors.sums: 3 is above pick.quotas.sums, 2",
        ),
        (
            {"pick__floors": {"sums": 3, "lines": 3}, "pick__budget": 5},
            "pick.floors: 6 together, above the budget of 5",
        ),
        (
            {"pick__quotas": dict.fromkeys(["sums", "lines", "pool"], 1)},
            r"budget of 9 rows .* 3 can be taken \(quota of",
        ),
        ({"pick__quotas": {"sums": "90tok"}}, "pick.quotas.sums: expected 500 or 20%, as the budget counts"),
        ({"pick__include": "nosuch"}, "nosuch: cannot read this list of ids"),
    ],
)
def test_impossible_budgets_name_the_constraint(run, given, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**{"pick__method": "random", "pick__budget": 9, "data__target": []} | given).pick()


def test_lists_that_name_no_row(run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pool row that can be used has the id or row_id 'p99'"):
        run(pick__method="random", pick__include=lines(tmp_path / "in", "p1", "p99")).pick()
    with pytest.raises(InputError, match="expected one id or row_id a line, found JSON"):
        run(pick__method="random", pick__exclude=lines(tmp_path / "ex", '{"id": 1}')).pick()
    both = lines(tmp_path / "both", "p1")
    with pytest.raises(InputError, match=r"p1 is to be taken, but is no candidate: in pick\.exclude"):
        run(pick__method="random", pick__include=both, pick__exclude=both).pick()
