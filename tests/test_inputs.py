"""What a run reads: once, when needed, with everything left out on record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.data.chat import Encoded
from tamis.errors import InputError, ModelError, StoreError
from tamis.inputs import Inputs, digest
from tamis.model.load import LoraSettings


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def inputs(settings: dict[str, Any], notes: list[str]) -> Callable[..., Inputs]:
    """inputs(**changes), __ for the dot in a name."""

    def make(**changes: Any) -> Inputs:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return Inputs(load_config(None, {**settings, **named}), notes.append)

    return make


def test_nothing_is_read_before_it_is_asked_for(inputs: Callable[..., Inputs], notes: list[str]) -> None:
    given = inputs(data__pool="none.jsonl", data__target="none.jsonl", model__name="none")
    assert notes == []
    for ask in (lambda: given.pool, lambda: given.target):
        with pytest.raises(InputError, match=r"none.jsonl: no such file"):
            ask()
    with pytest.raises(ModelError, match="cannot load a tokenizer from 'none'"):
        _ = given.tokenizer


def test_the_pool_is_read_once_and_told(inputs: Callable[..., Inputs], notes: list[str], pool_file: Path) -> None:
    given = inputs()
    assert given.pool is given.pool
    assert notes == [
        f"pool: {pool_file}: 21 rows, recognised as messages by fields messages",
        "pool: rows equal to an earlier one that are left out: 1",
        f"pool, unreadable: 1 row: {pool_file} row 4: not valid JSON: Expecting value (character 15)",
    ]


def test_a_target_counts_as_often_as_it_is_given(
    inputs: Callable[..., Inputs], notes: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n' * 2)
    given = inputs(data__target=str(path), data__pool=str(path))
    assert (len(given.target), len(given.pool)) == (2, 1)
    assert "target: rows equal to an earlier one that count again: 1" in notes
    assert "pool: rows equal to an earlier one that are left out: 1" in notes


def test_encode_gives_tokens_or_the_reason(inputs: Callable[..., Inputs]) -> None:
    given = inputs()
    by_row = {example.row: example for example in given.pool}
    good, refused, long = (given.encode(by_row[row]) for row in (1, 14, 20))
    assert isinstance(good, Encoded)
    assert good is given.encode(by_row[1])
    assert isinstance(refused, str)
    assert "it holds a character that Unicode reserves" in refused
    assert isinstance(long, Encoded)
    assert len(long.input_ids) == 96
    assert [given.n_supervised(by_row[row]) for row in (1, 14, 20)] == [good.n_supervised, 0, 0]


def test_few_rows_are_remembered_and_the_others_counted_again(
    inputs: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs()
    expected = [given.n_supervised(example) for example in given.pool]
    monkeypatch.setattr("tamis.inputs._N_COUNTED", 3)
    monkeypatch.setattr("tamis.inputs._N_ENCODED", 2)
    again = inputs()
    for _ in range(2):
        assert [again.n_supervised(example) for example in again.pool] == expected
    assert (len(again._n_supervised), len(again._encoded)) == (3, 2)


@pytest.mark.parametrize(("asked", "tokens"), [(None, 96), (96, 96), (40, 40)])
def test_max_tokens_is_at_most_the_models_positions(
    inputs: Callable[..., Inputs], asked: int | None, tokens: int
) -> None:
    assert inputs(model__max_tokens=asked).max_tokens == tokens
    with pytest.raises(InputError, match=r"model.max_tokens is 97, but .* has 96 positions"):
        _ = inputs(model__max_tokens=97).max_tokens


@pytest.mark.parametrize(
    ("share", "at_least", "n_rows"),
    [("50%", 1, 10), ("5%", 1, 1), ("1%", 1, 1), ("1%", 7, 7), ("100%", 1, 18), ("14.99%", 1, 2), ("1%", 500, 18)],
)
def test_warmup_rows_are_a_share_of_the_pool(
    inputs: Callable[..., Inputs], share: str, at_least: int, n_rows: int
) -> None:
    rows = inputs(warmup__share=share, warmup__min_examples=at_least).warmup_rows()
    assert len(rows) == len({example.id for example, _ in rows}) == n_rows
    assert not {14, 20} & {example.row for example, _ in rows}  # refused; cut before its answer
    assert all(encoded.n_supervised for _, encoded in rows)


def test_a_pool_that_cannot_be_trained_on_is_refused(inputs: Callable[..., Inputs], tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"question": "' + "Why? " * 80 + '", "answer": "So."}\n')
    with pytest.raises(InputError, match=r"no pool row can be trained on; .*long.jsonl row 1: no completion token"):
        inputs(data__pool=str(path)).warmup_rows()


def test_another_base_model_is_refused(inputs: Callable[..., Inputs]) -> None:
    given = inputs()
    given.check_base(given.base_digest, "here")
    with pytest.raises(StoreError, match=r"here: .* base model with digest abc, but .* has [0-9a-f]{32}"):
        given.check_base("abc", "here")


def test_skipped_rows_are_told_once_and_kept(inputs: Callable[..., Inputs], notes: list[str], pool_file: Path) -> None:
    given = inputs()
    rows = [(example, "why not") for example in given.pool][:5]
    notes.clear()
    given.leave_out("pool, skipped", rows)
    given.leave_out("pool, skipped", rows)
    assert notes == [
        f"pool, skipped: 5 rows: {pool_file} row 1: why not; {pool_file} row 2: why not; {pool_file} row 3: why not; …"
    ]
    left_out = given.manifest()["left_out"]
    assert [row["row"] for row in left_out["pool, skipped"]] == [1, 2, 3, 5, 6]
    given.leave_out("pool, skipped", [])
    assert set(given.manifest()["left_out"]) == {"pool, unreadable"}


def test_the_manifest_speaks_of_what_there_was(inputs: Callable[..., Inputs]) -> None:
    full = inputs().manifest()
    assert set(full) == {"pool", "target", "model", "left_out"}
    assert (full["pool"]["n_rows"], full["pool"]["n_duplicates"], full["target"]["n_rows"]) == (20, 1, 4)
    assert set(inputs(data__target=[], model__name=None).manifest()) == {"pool", "left_out"}
    assert inputs(data__limit=5).manifest()["pool"]["digest"] != full["pool"]["digest"]


def test_digest() -> None:
    assert digest(1, "a") == digest(1, "a") != digest("1a")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    lora = LoraSettings(4, 8, 0.0, "attention")
    assert digest(lora) == digest({"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "attention"})
    with pytest.raises(TypeError, match="cannot digest a set"):
        digest({1})


def test_named_columns_may_be_meant_for_the_target_alone(
    inputs: Callable[..., Inputs], notes: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "svamp.jsonl"
    path.write_text('{"Body": "How many?", "Answer": 8}\n')
    fields = {"prompt": "Body", "completion": "Answer"}
    given = inputs(data__target=str(path), data__fields=fields)
    assert len(given.pool) == 20
    assert given.target[0].messages[1].content == "8"
    assert f"target: {path}: 1 rows, recognised as prompt/completion by fields prompt=Body, completion=Answer" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__fields": {"prompt": "Body"}}, "no file has the columns Body: see the fields of a file with `tamis"),
        ({"data__format": "preference"}, "no file has rows that --format preference reads"),
    ],
)
def test_names_that_fit_no_file_stop_the_run_before_any_work(
    inputs: Callable[..., Inputs], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _ = inputs(**changes).pool


def test_bad_rows_are_kept_capped_or_an_error(inputs: Callable[..., Inputs], tmp_path: Path) -> None:
    good, bad = '{"question": "a%d", "answer": "b"}\n', '{"question": "a", "answer": ""}\n'
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(good % i for i in range(20)) + bad * 2)
    with pytest.raises(InputError, match="2 of 22 rows are bad, more than 5%"):
        _ = inputs(data__pool=str(path)).pool
    given = inputs(data__pool=str(path), data__max_bad_rows="10%")
    assert (len(given.pool), [row.row for row in given.rejected]) == (20, [21, 22])
    with pytest.raises(InputError, match=r"pool\.jsonl row 21: empty answer; mend or remove it"):
        _ = inputs(data__pool=str(path), data__on_bad_row="error").pool
