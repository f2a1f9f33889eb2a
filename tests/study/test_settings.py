"""A study's settings: the grid, and the settings of each of its runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tamis.config import load_config
from tamis.errors import InputError
from tamis.study.settings import StudyConfig, load_study

TARGETS = {
    "sums": {"query": "a.jsonl", "test": ["b.jsonl"], "task": "numeric"},
    "lines": {"query": ["c.jsonl"], "test": "d.jsonl"},
}


def study(**given: Any) -> StudyConfig:
    named = {key.replace("__", "."): value for key, value in given.items()}
    return load_study(None, {"model.name": "m/tiny", "data.pool": "p.jsonl", "study.targets": TARGETS, **named})


def test_a_run_has_the_studys_settings_and_its_variants() -> None:
    config = study(
        represent__dim=64,
        seed=7,
        study__models={"small": {"model.name": "m/small"}, "large": {"model": {"name": "m/large", "max_tokens": 99}}},
        study__methods={"less": None, "less-8": {"pick.method": "less", "represent.dim": 8}, "rds+top_k": {}},
    )
    run = config.run("large", "lines", "5%", "less-8", seed=3)
    assert (run.model.name, run.model.max_tokens, run.represent.dim, run.method.name) == ("m/large", 99, 8, "less")
    assert (run.data.target, run.pick.budget, run.seed) == (["c.jsonl"], "5%", 3)
    assert config.run("small", "sums", "9", "less") == load_config(
        None,
        {
            "model.name": "m/small",
            "represent.dim": 64,
            "seed": 7,
            "data.pool": "p.jsonl",
            "data.target": "a.jsonl",
            "data.evaluation": ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"],
            "pick.method": "less",
            "pick.budget": 9,
        },
    )
    assert config.run("small", "sums", "9", "rds+top_k").method.name == "rds+top_k"


def test_every_target_protects_the_rows_of_all() -> None:
    runs = [study().run("tiny", target, method="random", plain=True) for target in TARGETS]
    assert runs[0].data.evaluation == runs[1].data.evaluation == ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]


def test_a_target_may_have_a_task_of_its_own() -> None:
    config = study(evaluate__task="f1", evaluate__limit=9)
    assert [config.evaluation(name).task for name in TARGETS] == ["numeric", "f1"]
    assert config.evaluation("sums").limit == 9


def test_models_by_name_alone() -> None:
    assert list(study().models) == ["tiny"]
    config = study(study__models=["x/one", "two"])
    assert config.models == {"one": {"model.name": "x/one"}, "two": {"model.name": "two"}}


def test_its_yaml_runs_it_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("m/tiny", "m/large"):
        (tmp_path / folder).mkdir(parents=True)
    config = study(
        study__methods={"less": {}, "some": {"pick": {"method": "bm25", "include": "ids.txt"}}},
        study__models=["m/tiny", "m/large"],
        study__budgets=[5, "2%"],
        study__seeds=[4],
        finetune__model="m/large",
    )
    text = config.to_yaml()
    assert yaml.safe_load(text)["study"]["targets"]["sums"]["query"] == [str(tmp_path / "a.jsonl")]
    methods, models = (yaml.safe_load(text)["study"][group] for group in ("methods", "models"))
    assert methods["some"] == {"pick.method": "bm25", "pick.include": [str(tmp_path / "ids.txt")]}
    assert models["large"] == {"model.name": str(tmp_path / "m" / "large")}
    assert yaml.safe_load(text)["finetune"]["model"] == str(tmp_path / "m" / "large")
    monkeypatch.chdir("/")
    (tmp_path / "again.yaml").write_text(text)
    assert load_study(tmp_path / "again.yaml", {}).to_yaml() == text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"study__targets": {}}, "no target given: say study.targets"),
        ({"study__targets": {"a": {"query": "a"}}}, "study.targets.a.test: Field required"),
        ({"data__target": "a.jsonl"}, "a study's targets are study.targets"),
        ({"study__baselines": []}, "nothing to compare"),
        ({"study__methods": ["lass"]}, "unknown method 'lass': choose from less, gradient"),
        ({"study__methods": {"a": {"pick.method": "less", "represent.dims": 8}}}, "represent.dims.*did you mean"),
        ({"study__methods": {"random": {}}}, "name of a baseline"),
        ({"study__budgets": ["5 per cent"]}, "study.budgets"),
        ({"study__budgets": ["5%", "5%"]}, "budgets: expected each once"),
        ({"study__seeds": []}, "study.seeds"),
        ({"study__seeds": [1, 1]}, "seeds: expected each once"),
        ({"study__baselines": ["rndom"]}, "study.baselines.0"),
        ({"study__baselines": ["random length-matched"]}, "needs a method whose lengths it has"),
        (
            {"study__baselines": ["random length-matched"], "study__methods": "less", "study__length_of": "rds"},
            "length_of: expected one of less",
        ),
        ({"study__quantile": {"representations": ["loss"], "rows": 5}}, "similarity to each query row"),
        ({"study__quantile": {"representations": ["rds"]}}, "study.quantile.rows"),
        ({"study__target": {}}, "unknown setting 'study.target'; did you mean 'study.targets'"),
        ({"model__name": None}, "no model given"),
        ({"study__methods": "less", "study__title": "hf_0123456789abcdefgh"}, "token"),
        ({"study__models": ["a/tiny", "b/tiny"]}, "two would be called tiny"),
        ({"study__methods": ["bm25", "bm25"]}, "expected each once, got bm25 again"),
        ({"study__methods": {"a": {"pick.method": "bm25", "data.limit": 5}}}, "data.limit cannot differ here"),
        ({"study__methods": {"a": {"pick.method": "bm25", "pick.budget": 5}}}, "pick.budget cannot differ here"),
        ({"study__methods": {"a": {"pick.method": "bm25", "finetune.model": "x"}}}, "finetune.model cannot differ"),
        ({"study__methods": {"bm25": {"pick": {1: 2}}}}, "unknown setting .pick.1."),
        ({"study__models": {"a": {"model.name": "x", "evaluate.task": "f1"}}}, "evaluate.task cannot differ here"),
        ({"study__models": {"a": {"model.name": "x", "pick": {"method": "less"}}}}, "pick.method cannot differ here"),
        ({"pick__method": "less"}, "pick.method has no effect on a study"),
        ({"pick__budget": "9"}, "pick.budget has no effect on a study"),
        ({"evaluate__adapter": "a"}, "evaluate.adapter has no effect on a study"),
        ({"finetune__merged": True}, "finetune.merged has no effect on a study"),
        ({"study__methods": "less", "study__length_of": "less"}, "only the baseline random length-matched looks at it"),
    ],
)
def test_what_cannot_be_studied(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        study(**given)


def test_the_example_is_a_study() -> None:
    config = load_study(Path(__file__).parents[2] / "examples" / "study.yaml", {})
    assert len(config.study.methods) == 6
