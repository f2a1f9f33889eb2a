"""Settings: defaults, YAML, overrides, refusals that name the key, replay."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tamis.config import Config, known_keys, load_config, parse_override
from tamis.errors import InputError


def test_defaults_are_the_papers() -> None:
    config = load_config()
    warmup = config.warmup
    assert (warmup.share, warmup.min_examples, warmup.epochs, warmup.batch_size) == ("5%", 500, 4, 32)
    assert (warmup.lora_rank, warmup.lora_alpha, warmup.lora_dropout) == (128, 512, 0.1)
    assert (warmup.learning_rate, warmup.warmup_ratio, warmup.lora_targets) == (2e-5, 0.03, "attention")
    assert (config.represent.adam, config.represent.projection, config.represent.dim) == ("torch", "sketch", 8192)
    assert (config.method.name, config.pick.budget, config.workspace, config.seed) == ("tagcos", "5%", ".tamis", 0)
    assert load_config(None, {"data.target": "t"}).method.name == "less"


def test_yaml_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {pool: a.jsonl, fields: {prompt: ask}}\npick:\n  budget: 200\n  method: bm25\nseed: 3\n")
    config = load_config(path, {"pick.method": "random", "data.target": ["t.jsonl", "u.jsonl"]})
    assert config.data.pool == ["a.jsonl"]  # one file is a list of one
    assert config.data.fields == {"prompt": ["ask"]}
    assert config.data.target == ["t.jsonl", "u.jsonl"]
    assert (config.method.name, config.pick.budget, config.seed) == ("random", "200", 3)
    path.write_text("")
    assert load_config(path) == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pick.budget=10%", "10%"),
        ("represent.dim=64", 64),
        ("warmup.learning_rate=1e-3", "1e-3"),  # YAML 1.1 sees a string here; the setting is a number all the same
        ("warmup.lora_targets=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("pick.options={n_clusters: 9}", {"n_clusters": 9}),
        ("model.template=a=b", "a=b"),
        ("model.name=@x", "@x"),  # no YAML
        ("out=", None),
    ],
)
def test_overrides_are_read_as_yaml(text: str, value: Any) -> None:
    key = text.partition("=")[0]
    assert parse_override(text) == (key, value)
    config = load_config(None, dict([parse_override(text)]))
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == (float(value) if key == "warmup.learning_rate" else value)


@pytest.mark.parametrize("text", ["pick.budget", "=5", ""])
def test_other_words_are_no_override(text: str) -> None:
    with pytest.raises(InputError, match=r"expected KEY=VALUE, such as pick.budget=10%"):
        parse_override(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pick.bugdet", 5, "unknown setting 'pick.bugdet'; did you mean 'pick.budget'"),
        ("budget", 5, "unknown setting 'budget'; did you mean 'pick.budget'"),
        ("pol", "a", "unknown setting 'pol'"),
        ("data.fild", {}, "did you mean 'data.fields'"),
        ("pick.method", "lees", r"pick.method: unknown method 'lees': .*\(did you mean less\?\)$"),
        ("warmup.share", 5, "warmup.share: expected a percentage such as 5%, got 5$"),
        ("warmup.share", "0%", "expected a percentage above 0"),
        ("warmup.share", "101%", "expected a percentage such as 5%"),
        ("warmup.batch_size", 6, "warmup: expected a batch_size that is a multiple of micro_batch_size, got 6 and 4$"),
        ("warmup.epochs", -1, r"warmup.epochs: Input should be greater than or equal to 0 \(got -1\)"),
        ("model.dtype", "float16", r"model.dtype: Input should be 'auto', 'float32' or 'bfloat16' \(got 'float16'\)"),
        ("represent.adam", "adam", "represent.adam: Input should be 'torch', 'less', 'sgd' or 'sign'"),
        ("seed.x", 1, r"settings: seed: Input should be a valid integer \(got \{'x': 1\}\)"),
        (
            "pick.options",
            {"reduces": 1},
            "method 'tagcos' has no option 'reduces'; it has: n_clusters, ridge, tolerance",
        ),
        ("data.limit", "many", r"data.limit: .*valid integer.*\(got 'many'\)"),
    ],
)
def test_refusals_name_the_key_and_the_nearest(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        load_config(None, {key: value})
    assert str(refusal.value).startswith("settings: ") or "option" in message
    assert "\n" not in str(refusal.value)


def test_refusals_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text, message in [
        ("pick: {bugdet: 5}", r"run.yaml: unknown setting 'pick.bugdet'"),
        ("pick: [", "run.yaml: not valid YAML"),
        ("- a", r"run.yaml: expected keys such as 'data:' and 'pick:', found a list"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message) as refusal:
            load_config(path)
        assert "\n" not in str(refusal.value)
    path.write_text("seed: 1")
    with pytest.raises(InputError, match=r"cannot set 'seed.x': 'seed' is not a group of settings"):
        load_config(path, {"seed.x": 2})
    path.write_bytes(b"out: \xff")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path)
    with pytest.raises(InputError, match="cannot read this configuration file"):
        load_config(tmp_path / "none.yaml")


def test_known_keys_are_those_of_the_tree() -> None:
    def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
        groups = {"data", "model", "warmup", "represent", "score", "pick", "engine", "finetune", "evaluate"}
        return {
            leaf
            for key, value in tree.items()
            for leaf in (leaves(value, f"{key}.") if not prefix and key in groups else {prefix + key})
        }

    assert set(known_keys()) == leaves(Config().model_dump())


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(
    budget=st.sampled_from(["5%", "500", "200tok"]),
    seed=st.integers(0, 2**32 - 1),
    fields=st.dictionaries(st.sampled_from(["prompt", "completion"]), st.lists(_TEXT, min_size=1)),
    name=st.none() | _TEXT,
    limit=st.none() | st.integers(1, 10**9),
)
def test_yaml_replays_every_setting(
    budget: str, seed: int, fields: dict[str, list[str]], name: str | None, limit: int | None
) -> None:
    config = load_config(
        None,
        {"pick.budget": budget, "seed": seed, "data.fields": fields, "warmup.lora_targets": name or "x"}
        | {"data.limit": limit, "data.pool": "/a/*.jsonl", "workspace": "/w", "model.revision": name}
        | {"pick.method": "tagcos", "data.evaluation": "/e", "pick.include": "/i", "pick.quotas": {"x": "5%"}},
    )
    assert load_config(None, yaml.safe_load(config.to_yaml())) == config


def test_yaml_makes_local_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    given = {"data.pool": ["a.jsonl", "~/b/*.jsonl"], "out": "o", "model.name": "model", "model.template": "plain"}
    tree = yaml.safe_load(load_config(None, given).to_yaml())
    assert tree["data"]["pool"] == [str(tmp_path / "a.jsonl"), str(tmp_path / "home" / "b" / "*.jsonl")]
    assert (tree["out"], tree["workspace"]) == (str(tmp_path / "o"), str(tmp_path / ".tamis"))
    assert (tree["model"]["name"], tree["model"]["template"]) == (str(tmp_path / "model"), "plain")
    hub = yaml.safe_load(load_config(None, {"model.name": "org/name"}).to_yaml())
    assert hub["model"]["name"] == "org/name"
