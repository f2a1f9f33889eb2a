"""The pipeline end to end on the tiny model: what is written, what is computed, what is picked."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.config import load_config
from tamis.errors import InputError, StoreError
from tamis.model.load import load_tokenizer
from tamis.pipeline import Pipeline, select
from tamis.progress import Told
from tamis.store import FeatureStore


@pytest.fixture
def run(settings: dict[str, Any], workspace: Path) -> Callable[..., Pipeline]:
    """run(progress, **changes): a pipeline over a finished workspace; __ in a name stands for the dot."""

    def make(progress: Any = None, engine: Any = None, **changes: Any) -> Pipeline:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return Pipeline(load_config(None, {**settings, "workspace": str(workspace), **named}), progress, engine)

    return make


def row_ids(selection: Any) -> list[str]:
    return [example.row_id for example in selection.examples]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_is_promised(finished: Path) -> None:
    names = {path.name for path in (finished / "out").iterdir()}
    assert names == {
        *("selected.jsonl", "picks.parquet", "config.yaml", "manifest.json", "rejected.jsonl"),
        *("report.html", "report.json", "figures", "tables"),
    }
    [rejected] = map(json.loads, (finished / "out" / "rejected.jsonl").read_text().splitlines())
    assert (rejected["row"], rejected["text"]) == (4, '{"messages": [')
    assert {path.name for path in finished.iterdir()} == {"ws", "out"}


def test_selected_rows_are_the_original_lines_in_pick_order(finished: Path, pool_file: Path) -> None:
    picks = pq.read_table(finished / "out" / "picks.parquet")
    lines = pool_file.read_bytes().split(b"\n")
    selected = (finished / "out" / "selected.jsonl").read_bytes()
    assert selected == b"".join(lines[row - 1] + b"\n" for row in picks["row"].to_pylist())
    assert [json.loads(line)["id"] for line in selected.splitlines()] == picks["row_id"].to_pylist()


def test_picks_parquet(finished: Path, pool_file: Path, tiny_model: Path, settings: dict[str, Any]) -> None:
    table = pq.read_table(finished / "out" / "picks.parquet")
    assert table.column_names == [
        "id", "row_id", "file", "row", "rank", "score", "weight", "source", "tokens", "target",
    ]  # fmt: skip
    picks = table.to_pydict()
    assert picks["rank"] == [1, 2, 3, 4, 5, 6]
    assert picks["score"] == sorted(picks["score"], reverse=True)
    assert set(picks["file"]) == {str(pool_file)}
    assert picks["weight"] == [None] * 6
    assert set(picks["target"]) <= {"t1", "t2", "t3", "t4"}
    rows = [json.loads(line) for line in (finished / "out" / "selected.jsonl").read_text().splitlines()]
    assert picks["source"] == [row.get("source", "pool") for row in rows]
    tokenizer = load_tokenizer(Pipeline(load_config(None, settings)).inputs.source)
    answers = [row["messages"][1]["content"] + tokenizer.eos_token for row in rows]
    assert picks["tokens"] == [len(tokenizer(answer)["input_ids"]) for answer in answers]


def test_manifest(finished: Path, pool_file: Path) -> None:
    manifest = json.loads((finished / "out" / "manifest.json").read_text())
    assert (manifest["n_usable"], manifest["n_picked"], manifest["budget"]) == (18, 6, "6")
    assert (manifest["method"], manifest["representation"], manifest["selector"]) == ("less", "gradient", "top_k")
    pool = manifest["pool"]
    assert (pool["n_rows"], pool["n_duplicates"]) == (20, 1)
    assert pool["sources"] == {"sums": 6, "lines": 4, "pool": 10}
    assert manifest["target"]["n_rows"] == 4
    assert (manifest["model"]["template"], manifest["model"]["max_tokens"]) == ("plain", 96)
    assert set(manifest["seconds"]) == {
        *("warm up", "target features 1/2", "target features 2/2", "pool features 1/2", "pool features 2/2"),
        *("read", "filter", "score", "pick"),
    }
    assert (finished / "ws" / "similarity" / f"{manifest['similarity']}.npy").exists()
    [unreadable] = manifest["left_out"]["pool, unreadable"]
    assert (unreadable["file"], unreadable["row"]) == (str(pool_file), 4)
    assert unreadable["reason"].startswith("not valid JSON")
    refused, long = manifest["left_out"]["pool, skipped"]
    assert refused["row"] == 14
    assert "it holds a character that Unicode reserves" in refused["reason"]
    assert (long["row"], long["reason"]) == (20, "no completion token within 96 tokens")


def test_config_replays_the_run_from_another_directory(
    cli: Callable[..., Any], pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    again = tmp_path / "again"
    cli("select", finished / "out" / "config.yaml", "--out", again)
    for name in ("selected.jsonl", "config.yaml"):
        expected = (finished / "out" / name).read_text().replace(str(finished / "out"), str(again))
        assert (again / name).read_text() == expected
    assert pq.read_table(again / "picks.parquet").equals(pq.read_table(finished / "out" / "picks.parquet"))
    seconds = json.loads((again / "manifest.json").read_text())["seconds"]
    assert seconds.keys() == {"read", "filter", "pick"}  # all else was there

    monkeypatch.chdir(pool_file.parent)
    cli("select", "--pool", "*.jsonl", "--method", "random", "--budget", "25%", "--out", tmp_path / "a", "--seed", 3)
    monkeypatch.chdir(tmp_path)
    cli("select", "a/config.yaml", "--out", "b")
    selected = (tmp_path / "a" / "selected.jsonl").read_bytes()
    assert (tmp_path / "b" / "selected.jsonl").read_bytes() == selected
    assert selected.count(b"\n") == 5


# ---- what is computed ------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(run: Callable[..., Pipeline], recorder: Any, workspace: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    told = recorder()
    run(told).pick()
    assert told.stages == ["read", "filter", "pick"]
    assert told.n_todo == dict.fromkeys([f"{what} features {k}/2" for what in ("target", "pool") for k in (1, 2)], 0)
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


def test_a_new_target_computes_only_its_own_rows(
    run: Callable[..., Pipeline], recorder: Any, target_file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new.jsonl"
    fresh = '{"question": "Is a plum a fruit?", "answer": "Yes."}\n'
    target.write_text(fresh + fresh + target_file.read_text().splitlines()[0])
    told = recorder()
    scored = run(told, data__target=str(target)).score()
    assert told.n_todo == {
        "target features 1/2": 1, "target features 2/2": 1, "pool features 1/2": 0, "pool features 2/2": 0,
    }  # fmt: skip
    assert "warm up" not in told.stages
    assert scored.values.shape == (3, 18)  # a target row counts as often as it is given
    assert np.array_equal(scored.values[0], scored.values[1])


def test_appended_pool_rows_are_the_only_ones_computed(
    run: Callable[..., Pipeline], recorder: Any, pool_file: Path, workspace: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text("".join(f'{{"question": "Say {word} once.", "answer": "{word}"}}\n' for word in ("six", "ten")))
    [warmup] = (workspace / "checkpoints").iterdir()
    changes = {"data__pool": [str(pool_file), str(more)], "warmup__checkpoints": str(warmup)}
    told = recorder()
    scored = run(told, **changes).score()
    assert told.n_todo == {
        "target features 1/2": 0, "target features 2/2": 0, "pool features 1/2": 2, "pool features 2/2": 2,
    }  # fmt: skip
    assert scored.values.shape == (4, 20)
    at_once = run(workspace=str(tmp_path / "fresh"), **changes).score()
    assert np.allclose(scored.values, at_once.values, atol=1e-3)  # float16 rows, other batches


class Backwards:
    """An engine that takes the shards in the opposite order."""

    def run(
        self, make_worker: Callable[[], Callable[[Any, Told], Any]], tasks: Sequence[Any], told: Told
    ) -> Iterator[Any]:
        worker = make_worker()
        return reversed([worker(task, told) for task in reversed(tasks)])


def test_two_runs_with_one_seed_leave_the_same_bytes(
    run: Callable[..., Pipeline], contents: Callable[[Path], dict[str, bytes]], finished: Path, tmp_path: Path
) -> None:
    run(engine=Backwards(), workspace=str(tmp_path / "ws")).score()
    mine, theirs = contents(tmp_path / "ws"), contents(finished / "ws")
    assert sorted(mine) == sorted(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []
    assert len([name for name in mine if name.startswith("features")]) == 4 + 2 * 3 + 2 * 1  # recipes, shards


def test_another_seed_is_another_warm_up(run: Callable[..., Pipeline]) -> None:
    rows = [[example.id for example, _ in run(seed=seed).inputs.warmup_rows()] for seed in (0, 0, 1)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


# ---- what is picked --------------------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_sum_of_cosines_over_checkpoints(run: Callable[..., Pipeline]) -> None:
    pipeline = run()
    scored = pipeline.score()
    assert [example.row_id for example in scored.targets] == ["t1", "t2", "t3", "t4"]
    rates = [checkpoint.mean_learning_rate for checkpoint in pipeline.checkpoints]
    expected = np.zeros((4, 18))
    for number, rate in enumerate(rates):
        rows = []
        for examples, what in ((scored.targets, "target"), (scored.pool, "pool")):
            store: FeatureStore = pipeline.representing.stores("gradient", examples, what)[0][number]
            assert store.recipe["adam"] == ("sgd" if what == "target" else "torch")
            rows.append(store.rows([example.id for example in examples]).astype(np.float64))
        expected += rate / sum(rates) * rows[0] @ rows[1].T
    assert len(set(rates)) == 2  # else weights could not matter
    assert np.allclose(scored.values, expected, atol=1e-6)


@pytest.mark.parametrize("reduce", ["group_mean_max", "mean", "max"])
def test_less_ranks_by_group_means(run: Callable[..., Pipeline], reduce: str) -> None:
    pipeline = run(pick__budget="100%", pick__options={"reduce": reduce})
    values = pipeline.score().values.astype(np.float64)
    groups = np.stack([values[:2].mean(0), values[2:].mean(0)])
    expected = {"group_mean_max": groups.max(0), "mean": values.mean(0), "max": values.max(0)}[reduce]
    selection = pipeline.pick()
    assert np.allclose(selection.scores, np.sort(expected)[::-1])
    pool = [example.row_id for example in pipeline.score().pool]
    assert row_ids(selection) == [pool[k] for k in np.argsort(-expected, kind="stable")]
    nearest = values[:, [pool.index(row_id) for row_id in row_ids(selection)]].argmax(0)
    assert selection.taken_by == [f"t{target + 1}" for target in nearest]


def test_skipped_rows_are_named_and_never_picked(run: Callable[..., Pipeline], recorder: Any, pool_file: Path) -> None:
    told = recorder()
    selection = run(told, pick__budget="500").pick()
    assert len(selection) == 18
    assert not {"reserved", "long", "again"} & set(row_ids(selection))
    [skipped] = [note for note in told.notes if note.startswith("pool, skipped: 2 rows")]
    assert f"{pool_file} row 14: the generation markers change the text of this row" in skipped
    assert f"{pool_file} row 20: no completion token within 96 tokens" in skipped
    assert "the budget of 500 exceeds the 18 usable rows: all are taken" in told.notes


def test_token_budget_is_the_longest_prefix_that_fits(run: Callable[..., Pipeline]) -> None:
    everything = run(pick__budget="100%").pick()
    selection = run(pick__budget="40tok").pick()
    n = len(selection)
    assert row_ids(selection) == row_ids(everything)[:n]
    assert len(selection.scores) == len(selection.taken_by) == len(selection.n_tokens) == n
    assert sum(everything.n_tokens[:n]) <= 40 < sum(everything.n_tokens[: n + 1])


def test_round_robin_takes_turns(run: Callable[..., Pipeline]) -> None:
    pipeline = run(pick__method="less+round_robin")
    selection = pipeline.pick()
    assert selection.taken_by == ["t1", "t2", "t3", "t4", "t1", "t2"]
    values, pool = pipeline.score().values, [example.row_id for example in pipeline.score().pool]
    assert row_ids(selection)[0] == pool[int(values[0].argmax())]


def test_random_needs_neither_target_nor_model_nor_workspace(pool_file: Path, tmp_path: Path) -> None:
    def pick(**changes: Any) -> list[str]:
        base = {
            "data.pool": str(pool_file),
            "pick.method": "random",
            "pick.budget": 6,
            "workspace": str(tmp_path / "w"),
        }
        selection = select(load_config(None, base | {k.replace("__", "."): v for k, v in changes.items()}))
        assert selection.n_tokens == selection.taken_by == [None] * len(selection)
        return row_ids(selection)

    assert pick() == pick()
    assert pick() != pick(seed=1)
    assert pick(pick__budget=3) == pick()[:3]
    balanced = pick(pick__options={"balanced": True})
    in_sums, in_lines = [f"p{k}" for k in range(1, 7)], ["p7", "p8", "p9", "p10"]
    assert [sum(row_id in names for row_id in balanced) for names in (in_sums, in_lines)] == [2, 2]
    assert not (tmp_path / "w").exists()
    with pytest.raises(InputError, match="no model given"):
        pick(pick__budget="40tok")  # only a tokenizer can count


def test_bm25_needs_no_model(pool_file: Path, target_file: Path, tmp_path: Path, recorder: Any) -> None:
    config = load_config(
        None,
        {
            "data.pool": str(pool_file),
            "data.target": str(target_file),
            "pick.method": "bm25",
            "pick.budget": "50%",
            "workspace": str(tmp_path),
        },
    )
    selection = select(config)
    assert len(selection) == 10
    assert {example.source for example in selection.examples} == {"sums", "lines"}  # the words of the target
    told = recorder()
    assert select(config, told).ids == selection.ids
    assert told.stages == ["read", "filter", "pick"]  # the similarity was there


def test_kept_duplicates_are_candidates_of_their_own(run: Callable[..., Pipeline], workspace: Path) -> None:
    [warmup] = (workspace / "checkpoints").iterdir()
    selection = run(data__keep_duplicates=True, pick__budget="100%", warmup__checkpoints=str(warmup)).pick()
    assert len(selection) == 19
    place = {row_id: position for position, row_id in enumerate(row_ids(selection))}
    assert place["again"] == place["p1"] + 1
    assert selection.scores[place["again"]] == selection.scores[place["p1"]]
    assert selection.examples[place["again"]].source == "lines"


def test_limit_reads_only_the_first_rows(run: Callable[..., Pipeline]) -> None:
    pipeline = run(data__limit=5, pick__method="random", pick__budget="100%")
    assert sorted(row_ids(pipeline.pick())) == ["p1", "p2", "p3", "p4", "p5"]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_random_has_nothing_to_score(run: Callable[..., Pipeline]) -> None:
    with pytest.raises(InputError, match="method 'random' picks without similarities"):
        run(pick__method="random").score()


def test_checkpoints_of_another_model_are_refused(
    run: Callable[..., Pipeline], workspace: Path, tmp_path: Path
) -> None:
    [warmup] = (workspace / "checkpoints").iterdir()
    for path in warmup.glob("*/checkpoint.json"):
        path.write_text(path.read_text().replace('"base_digest": "', '"base_digest": "0'))
    with pytest.raises(StoreError, match=r"trained on a base model with digest 0.*Give the model they belong to"):
        run(warmup__checkpoints=str(warmup)).score()
    with pytest.raises(InputError, match=r"expected a warm-up of tamis .* found none of these"):
        run(warmup__checkpoints=str(tmp_path)).score()


def test_a_target_without_a_usable_row_is_refused(run: Callable[..., Pipeline], tmp_path: Path) -> None:
    target = tmp_path / "long.jsonl"
    target.write_text(json.dumps({"question": "Why? " * 80, "answer": "So."}))
    with pytest.raises(InputError, match=r"no usable target row; .*long.jsonl row 1: no completion token within 96"):
        run(data__target=str(target)).pick()


def test_a_warm_up_that_would_learn_nothing_is_refused(run: Callable[..., Pipeline]) -> None:
    one_step = {"warmup__epochs": 1, "warmup__batch_size": 32}
    with pytest.raises(InputError, match=r"on 10 rows has one step, whose learning rate is 0.*warmup.epochs=2, or"):
        run(**one_step).warm_up()
    [checkpoint] = run(**one_step, warmup__warmup_ratio=0).warm_up()
    assert checkpoint.mean_learning_rate == 0.01


def test_a_folder_with_other_files_is_refused_before_any_work(
    run: Callable[..., Pipeline], recorder: Any, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    told = recorder()
    with pytest.raises(InputError, match=r"holds files that are no tamis selection \(no manifest.json\)"):
        run(told, out=str(tmp_path)).pick()
    assert told.stages == told.notes == []
