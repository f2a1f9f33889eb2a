"""`tamis score --bootstrap`: against a bootstrap by hand on the run's own similarity, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.bootstrap import SourceLine, _announced, bootstrap, by_source, refusal
from tamis.config import load_config
from tamis.errors import InputError
from tamis.methods import known_methods
from tamis.pipeline import Pipeline
from tamis.selectors import Picks, knn_kde, top_k
from tamis.stability import Inclusion, resample

EVIL = "<script>alert(1)</script>"
Cli = Callable[..., Any]


def pipeline(settings: dict[str, Any], workspace: Path, **changes: Any) -> Pipeline:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(None, {**settings, "workspace": str(workspace), "score.bootstrap": 12, **changes})
    return Pipeline(config)


def by_hand(matrices: list[np.ndarray], groups: list[str], n: int, n_draws: int) -> list[int]:
    counts = np.zeros(matrices[0].shape[1], int)
    for draw in range(n_draws):
        rows = resample(groups, np.random.default_rng([0, draw]))
        counts[top_k(matrices[draw % len(matrices)][rows], n_examples=n, groups=groups).indices] += 1
    return counts.tolist()


def test_it_draws_from_the_similarity_of_the_run(settings: dict[str, Any], workspace: Path) -> None:
    run = pipeline(settings, workspace)
    stability = bootstrap(run)
    scored = run.score()
    assert stability.inclusion.counts.tolist() == by_hand([scored.values], scored.targets.groups, 6, 12)
    assert (stability.n_targets, stability.n_groups, stability.n_projections) == (4, 2, 1)
    selection = Pipeline(run.config).pick()
    assert [stability.pool.ids[i] for i in stability.inclusion.picks.indices] == selection.ids


def test_projection_seeds_take_turns(settings: dict[str, Any], workspace: Path) -> None:
    run = pipeline(settings, workspace, score__projection_seeds=3, represent__projection_seed=4)
    stability = bootstrap(run)
    alone = [pipeline(settings, workspace, represent__projection_seed=seed).score() for seed in (4, 5, 6)]
    values = [one.values for one in alone]
    assert not np.array_equal(values[0], values[1])
    assert stability.inclusion.counts.tolist() == by_hand(values, alone[0].targets.groups, 6, 12)
    assert stability.sentences[1].endswith("4 targets resampled within 2 groups, 3 projection seeds")


def test_a_selector_of_feature_rows_sees_those_of_its_projection(settings: dict[str, Any], workspace: Path) -> None:
    run = pipeline(settings, workspace, pick__method="less+knn_kde", score__projection_seeds=2, score__bootstrap=2)
    stability = bootstrap(run)
    alone = [pipeline(settings, workspace, represent__projection_seed=seed) for seed in (0, 1)]
    counts = np.zeros(len(stability.pool), int)
    for draw, one in enumerate(alone):
        scored, rows = one.score(), one.pool_rows
        drawn = scored.values[resample(scored.targets.groups, np.random.default_rng([0, draw]))]
        features = [checkpoint[:] for checkpoint in rows.by_checkpoint]
        counts[knn_kde(drawn, n_examples=6, pool_features=features, lr_weights=rows.lr_weights).indices] += 1
    assert stability.inclusion.counts.tolist() == counts.tolist()


def test_each_of_several_targets_keeps_its_part(settings: dict[str, Any], workspace: Path, target_file: Path) -> None:
    lines = target_file.read_text(encoding="utf-8").splitlines()
    given = {key: value for key, value in settings.items() if key != "data.target"}
    for name, rows in (("a", lines[:2]), ("b", lines[2:])):
        (workspace / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        given[f"data.targets.{name}.files"] = str(workspace / f"{name}.jsonl")
    given["data.targets.b.weight"] = 2
    run = pipeline(given, workspace)
    stability = bootstrap(run)
    assert stability.inclusion.counts.sum() == 12 * 6
    picks = stability.inclusion.picks
    assert [stability.pool.ids[i] for i in picks.indices] == Pipeline(run.config).pick().ids
    for name in "ab":
        (workspace / f"{name}.jsonl").write_text((lines[0] if name == "a" else lines[3]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="every group has one target row"):
        bootstrap(pipeline(given, workspace))


def test_a_similarity_of_ones_own(pool_file: Path, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((5, 20)).astype(np.float32)
    matrix = np.concatenate([matrix, matrix[:, :1]], axis=1)  # 21 rows can be read; one equals the first
    np.save(tmp_path / "s.npy", matrix)
    given = {"data.pool": str(pool_file), "pick.similarity": str(tmp_path / "s.npy"), "pick.budget": 4}
    stability = bootstrap(pipeline(given, tmp_path))
    assert (stability.n_targets, stability.n_groups) == (5, 1)
    assert stability.inclusion.counts.sum() == 12 * 4
    with pytest.raises(InputError, match="a similarity of your own has no projection"):
        bootstrap(pipeline(given, tmp_path, score__projection_seeds=2))


def test_the_folder_says_which_picks_are_firm(
    settings: dict[str, Any], workspace: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "firm"
    given = [f"{key}={value}" for key, value in settings.items()]
    shown = cli("score", *given, "--workspace", workspace, "--bootstrap", 20, "--out", out).stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml", "inclusion.parquet", "inclusion.pdf", "inclusion.png", "inclusion.svg", "manifest.json",
        "report.html",
    ]  # fmt: skip
    table = pq.read_table(out / "inclusion.parquet").to_pylist()
    picked = [line for line in table if line["picked"]]
    assert len(table) == 18
    assert sorted(line["rank"] for line in picked) == [1, 2, 3, 4, 5, 6]
    assert all((line["rank"] is None) == (line["score"] is None) == (not line["picked"]) for line in table)
    assert [line["inclusion"] for line in table] == sorted((line["inclusion"] for line in table), reverse=True)
    assert sum(line["inclusion"] for line in table) == pytest.approx(6, abs=1e-5)
    assert {line["source"] for line in table} == {"sums", "lines", "pool"}
    n_firm = sum(line["inclusion"] >= np.float32(0.9) for line in picked)
    assert f"of 6 picks {n_firm} are firm (picked in at least 90% of 20 draws)" in shown
    assert "4 targets resampled within 2 groups, 1 projection seed\n" in shown
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bootstrap"]["n_firm"] == n_firm
    html = (out / "report.html").read_text(encoding="utf-8")
    assert f"Of 6 picks {n_firm} are firm" in html
    assert "<svg" in html
    assert "&lt;svg" not in html
    before = pq.read_table(out / "inclusion.parquet")
    cli("score", out / "config.yaml")  # the settings replay it
    assert pq.read_table(out / "inclusion.parquet").equals(before)


def test_without_a_folder_it_only_tells(
    settings: dict[str, Any], workspace: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    given = [f"{key}={value}" for key, value in settings.items()]
    assert "of 6 picks" in cli("score", *given, "--workspace", workspace, "--bootstrap", 5).stdout
    assert set(tmp_path.iterdir()) == before


def test_several_seeds_without_draws_are_scored_alone(settings: dict[str, Any], workspace: Path, cli: Cli) -> None:
    given = [f"{key}={value}" for key, value in settings.items()]
    shown = cli("score", *given, "--workspace", workspace, "--projection-seeds", 2).stdout.splitlines()
    assert len({line.split()[0] for line in shown}) == 2
    wrong = cli("score", *given, "--workspace", workspace, "--projection-seeds", 2, "--method", "bm25", code=2)
    assert "bm25 has no projection" in wrong.stderr


def test_a_selection_is_not_replaced(settings: dict[str, Any], workspace: Path, finished: Path, cli: Cli) -> None:
    given = [f"{key}={value}" for key, value in settings.items()]
    wrong = cli("score", *given, "--workspace", workspace, "--bootstrap", 5, "--out", finished / "out", code=2)
    assert "holds a selection, which would be replaced" in wrong.stderr


def test_text_from_data_is_escaped(
    settings: dict[str, Any], workspace: Path, pool_file: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "pool.jsonl").write_text(
        pool_file.read_text(encoding="utf-8").replace('"sums"', json.dumps(EVIL)), encoding="utf-8"
    )
    given = [f"{key}={value}" for key, value in settings.items() if key != "data.pool"]
    cli(
        *("score", *given, "--pool", tmp_path / "pool.jsonl", "--workspace", workspace, "--method", "bm25"),
        *("--bootstrap", 5, "--budget", 12, "--out", tmp_path / "o"),
    )
    html = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pick.method": "random"}, "'random' picks without similarities"),
        ({"pick.method": "less+tagcos"}, "picks without similarities"),
        ({"pick.method": "loss"}, "ranks the pool alike for every target"),
        ({"pick.method": "dsir"}, "scores by all target rows of a group at once"),
        ({"pick.budget": "900tok"}, "expected a budget in rows, such as 500 or 5%, got 900tok"),
        ({"pick.quotas.sums": "2"}, "leave out pick.quotas"),
        ({"pick.floors.sums": "2"}, "leave out pick.floors"),
        ({"pick.include": "ids.txt"}, "leave out pick.include"),
        ({"pick.near_duplicates": 0.8}, "leave out pick.near_duplicates"),
        ({"score.projection_seeds": 2, "represent.projection": "none"}, "represent.projection is none"),
        ({"score.projection_seeds": 2, "pick.method": "bm25"}, "bm25 has no projection"),
        ({"score.projection_seeds": 2, "represent.projection_seed": 2**32 - 1}, "expected seeds up to"),
    ],
)
def test_what_it_does_not_cover_is_refused_before_any_work(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = pipeline({**settings, **changes}, tmp_path / "ws")
    with pytest.raises(InputError, match=message):
        bootstrap(run)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("name", known_methods())
def test_every_method_is_drawn_or_refused(name: str) -> None:
    reason = refusal(load_config(None, {"pick.method": name, "score.bootstrap": 5}))
    assert (reason is None) == (name in ("less", "gradient", "rds", "embed", "ngrams", "bm25")), reason


@pytest.mark.parametrize(("bootstrap", "seeds"), [(1, 1), (3, 4), (-1, 1), (5, 0)])
def test_settings_that_cannot_be_drawn_are_refused(bootstrap: int, seeds: int) -> None:
    with pytest.raises(InputError, match="score"):
        load_config(None, {"score.bootstrap": bootstrap, "score.projection_seeds": seeds})


def test_sources_are_counted() -> None:
    found = Inclusion(np.array([10, 9, 4, 6, 0, 1]), Picks(np.array([0, 1, 2]), np.zeros(3)), 10)
    assert by_source(found, ["u", "s", "u", "w", "never", "u"]) == [
        SourceLine("u", 2, 1, 1, 0),
        SourceLine("s", 1, 1, 0, 0),
        SourceLine("w", 0, 0, 0, 1),
    ]


def test_long_draws_are_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 3.0, 9.0])
    monkeypatch.setattr("tamis.bootstrap.time.perf_counter", lambda: next(clock))
    notes: list[str] = []
    picks = Picks(np.array([0]), np.array([1.0]))
    select = _announced(lambda *_: picks, 100, notes.append)
    assert select(np.ones((1, 1)), None, 1, 0) is select(np.ones((1, 1)), None, 1, 0) is picks
    assert notes == ["bootstrap: 100 draws will take about 5 minutes"]
