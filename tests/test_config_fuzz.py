"""Whatever is in a YAML file or after an equals sign: a Config that can be written, or an InputError on one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import Config, known_keys, load_config, parse_override
from tamis.errors import InputError
from tamis.methods import SELECTORS, load
from tamis.selectors import parse_budget

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
_values = st.recursive(
    _scalars, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), some)
)
_keys = st.sampled_from([*known_keys(), "data", "pick", "pick.options", "data.fields.prompt"]) | st.text(max_size=12)


def is_config_or_refused(make: Callable[[], Config]) -> None:
    try:
        config = make()
    except InputError as error:
        if not str(error).isprintable():
            raise AssertionError("a message of several lines") from error
        return
    text = config.to_yaml()
    text.encode()
    again = yaml.safe_load(text)
    assert load_config(None, again).to_yaml() == text


@settings(max_examples=150, deadline=None)
@given(tree=st.dictionaries(_keys, _values, max_size=4))
def test_any_tree(tree: dict[str, Any]) -> None:
    is_config_or_refused(lambda: load_config(None, tree))


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | _values.map(lambda value: yaml.safe_dump(value).encode()), data=st.data())
def test_any_file(tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject) -> None:
    if data.draw(st.booleans()):  # a real file with some bytes changed
        changed = bytearray(Config().to_yaml().encode())
        start = data.draw(st.integers(0, len(changed) - 1))
        changed[start : start + data.draw(st.integers(0, 4))] = content[:4]
        content = bytes(changed)
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    is_config_or_refused(lambda: load_config(path))


@settings(max_examples=150, deadline=None)
@given(key=_keys, value=st.text(max_size=30) | _scalars.map(str))
def test_any_override(key: str, value: str) -> None:
    is_config_or_refused(lambda: load_config(None, dict([parse_override(f"{key}={value}")])))


# Found by atheris and by thinking of what PyYAML does with them
@pytest.mark.parametrize(
    "text",
    [
        *(
            "seed: 2001-99-99",
            "seed: " + "9" * 5000,
            "[" * 5000,
            "{a: " * 3000,
            "&a [*a]",
            "data: &a {pool: [x], b: *a}",
        ),
        *(
            "seed: !!int ''",
            "seed: !!timestamp x",
            "seed: !!bool x",
            "seed: !!float x",
            "seed: !!python/name:os.system",
        ),
        *("<<: 3", "? [1]\n: 2", "1: 2", "~: 2", "data: !!set {pool}", "data: !!omap [a: 1]", "out: 2001-01-01"),
        *('out: "a\\0b"', 'out: "\\ud800"', 'data: {pool: ["a\\0b"]}', "out: !!binary x", "pick: {method: '+++'}"),
        *("warmup: {learning_rate: .inf}", "warmup: {learning_rate: 1.0e+400}", "warmup: {weight_decay: .nan}"),
        *("seed: 4294967296", "seed: 1" + "0" * 30, "data: {max_bad_rows: 1e-99999%}", "warmup: {share: 1e-300%}"),
        *("pick: {options: {reduce: 3}}", "pick: {options: &a {reduce: *a}}", "pick: {budget: true}"),
        *("pick: {method: random, options: {balanced: 1}}", "pick: {options: {1: 2}}", "pick: {method: [1]}"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.yaml|pick\.options|no option") as error:
        load_config(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("value", ["2001-99-99", "9" * 5000, "[" * 5000, "!!timestamp x", "\0", "é\ud800"])
@pytest.mark.parametrize("key", ["seed", "pick.budget", "out"])
def test_overrides_that_are_refused_or_text(key: str, value: str) -> None:
    is_config_or_refused(lambda: load_config(None, dict([parse_override(f"{key}={value}")])))


@pytest.mark.parametrize("text", ["9" * 5000, "0." + "9" * 5000 + "%", "1" * 19])
def test_budgets_of_thousands_of_digits(text: str) -> None:
    with pytest.raises(InputError, match="expected a budget like 500"):
        parse_budget(text)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_option_is_one_the_selector_takes(name: str) -> None:
    import numpy as np

    rows = np.eye(3, dtype=np.float32)
    given = {"similarity": rows, "groups": ["a", "b", "b"], "n_pool": 3, "seed": 0, "features": rows, "map": map}
    given |= {"goal": rows[0], "pool_features": [rows], "lr_weights": [1.0], "memory_bytes": 1 << 20}
    named = {need: given[need] for need in SELECTORS[name].needs if need in given}
    for option, choices in SELECTORS[name].options.items():
        for value in [choices(1) / 2 if choices is float else 1] if isinstance(choices, type) else choices:
            chosen = {option: value}
            if option == "balanced":
                chosen = {"sources": ["x", "y", "y"]} if value else {}
            assert len(load(SELECTORS[name].function)(**named, n_examples=2, **chosen)) == 2


@pytest.mark.parametrize("key", ["model.name", "data.pool", "data.target", "workspace", "out", "warmup.checkpoints"])
@pytest.mark.parametrize(
    "secret",
    ["https://me:hunter2@host/repo", "s3://key:s3cr3t@bucket/x", "hf_AbCdEfGhIjKlMnOpQrStUv", "hf://x?token=hunter2"],
)
def test_secrets_are_refused_and_not_repeated(key: str, secret: str) -> None:
    with pytest.raises(InputError, match=rf"{key}: expected no password or token.*HF_TOKEN") as error:
        load_config(None, {key: secret})
    assert "hunter2" not in str(error.value)
    assert "s3cr3t" not in str(error.value)
    assert "AbCd" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["C:/data/x.jsonl", "hf://org/name?split=train", "a@b/c", "s3://bucket/x@y", "hf_model"]
)
def test_usual_names_are_no_secrets(name: str) -> None:
    assert load_config(None, {"data.pool": name}).data.pool == [name]
