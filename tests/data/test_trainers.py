"""Exports are read by the libraries they are for: here datasets, TRL and, where they are installed, the others."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tamis.data.chat import Chat
from tamis.data.exports import OTHER_FIELDS, TRAINERS, export
from tamis.data.files import read
from tamis.data.picked import read_picked
from tamis.errors import InputError

TOOLS = [{"name": "find"}]


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


ROWS: list[dict[str, Any]] = [
    {"id": "one", "source": "chat", "messages": _turns("Hi", "Hello, é\u2028!")},
    {
        "id": "several",
        "source": "chat",
        "messages": [{"role": "system", "content": "Be brief."}, *_turns("a", "b", "c", "d")],
    },
    {
        "id": "called",
        "source": "tools",
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "", "tool_calls": [_call("find", x=1, deep={"y": [2, None]})]},
            {"role": "tool", "content": '{"at": 3}'},
            {"role": "assistant", "content": "There."},
        ],
    },
    {
        "id": "called otherwise",
        "source": "tools",
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "", "tool_calls": [_call("find", x="s"), _call("look")]},
        ],
    },
]


def _learning(id_: str, text: str) -> dict[str, Any]:
    """Two replies, b and d, of which one is learnt."""
    turns = _turns("a", "b", "c", "d")
    return {"id": id_, "messages": [{**t, "train": t["content"] == text} if t["content"] in "bd" else t for t in turns]}


LAST_ONLY, FIRST_ONLY = _learning("last", "d"), _learning("first", "b")


@pytest.fixture
def select(tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Path]:
    """select(rows, *options): the folder of a selection of all rows."""

    def make(rows: list[dict[str, Any]], *options: object) -> Path:
        pool = tmp_path / "pool.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        out = tmp_path / "picked"
        shared = ["--method", "random", "--workspace", tmp_path / "ws", "--out", out, "--budget", len(rows)]
        cli("select", "--pool", pool, *shared, *options)
        return out

    return make


@pytest.fixture
def cached(tmp_path: Path) -> dict[str, Any]:
    return {"split": "train", "cache_dir": str(tmp_path / "cache")}


def _ids_of(rows: list[dict[str, Any]], tmp_path: Path) -> list[str]:
    path = tmp_path / "again.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [example.id for example in read([str(path)]).examples]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


# ---- the plain formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "kind", "name"), [("messages", "json", "data.jsonl"), ("parquet", "parquet", "data.parquet")]
)
def test_datasets_gives_back_the_same_conversations(
    select: Callable[..., Path], tmp_path: Path, cached: dict[str, Any], trainer: str, kind: str, name: str
) -> None:
    from datasets import load_dataset

    folder = select([*ROWS, LAST_ONLY])
    out, made = export(folder, trainer)
    assert out == tmp_path / f"picked-{trainer}"
    assert made.lost == [OTHER_FIELDS]
    rows = list(load_dataset(kind, data_files=str(out / name), **cached))
    picks = pq.read_table(folder / "picks.parquet").to_pydict()
    assert [row["id"] for row in rows] == picks["id"]
    assert [row["source"] for row in rows] == picks["source"]
    assert _ids_of([_without_nulls(row) for row in rows], tmp_path) == picks["id"]  # tamis reads it as the same rows


def test_every_real_format_survives(shared: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = shared / "data" / "formats"
    files = [
        "sharegpt_toolcall.json",
        "messages.jsonl",
        "seed_tasks.jsonl",
        "dolly.parquet",
        "self_instruct_nested.jsonl",
    ]
    wanted = ["--pool", *(folder / file for file in files), folder / "sharegpt_preference.json"]
    cli(
        "select",
        *wanted,
        "--format",
        "preference",
        "--method",
        "random",
        "--budget",
        300,
        "--out",
        tmp_path / "p",
        "--workspace",
        tmp_path / "ws",
    )
    picked = read_picked(tmp_path / "p")
    for trainer in ("messages", "parquet"):
        out, _ = export(tmp_path / "p", trainer)
        data = out / ("data.jsonl" if trainer == "messages" else "data.parquet")
        assert [e.id for e in read([str(data)]).examples] == [e.id for e in picked.examples]
    assert len({example.source for example in picked.examples}) > 3
    out, made = export(tmp_path / "p", "llama-factory")
    n_rows = len((out / "data.jsonl").read_bytes().splitlines())
    assert n_rows + sum(int(line.split()[0]) for line in made.lost if " rows are left out" in line) == 300


# ---- TRL -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """run_script(path, *arguments): main() of a generated script, as it is; the rows that its trainer was made of."""
    pytest.importorskip("trl")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(path: Path, *arguments: str) -> Any:
        spec = importlib.util.spec_from_file_location("generated", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        trainers: list[Any] = []

        class Watched(module.SFTTrainer):  # type: ignore[name-defined, misc]
            def __init__(self, *given: Any, **named: Any) -> None:
                super().__init__(*given, **named)
                trainers.append(self)

        module.SFTTrainer = Watched  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        module.main()
        assert trainers[0].state.global_step == 1
        assert np.isfinite(trainers[0].state.log_history[-1]["train_loss"])
        return trainers[0].train_dataset

    return run


@pytest.mark.parametrize("rows", [[*ROWS, LAST_ONLY], [ROWS[0], LAST_ONLY]], ids=["several turns", "last turns"])
def test_the_trl_script_trains_on_the_tokens_that_tamis_means(
    select: Callable[..., Path],
    run_script: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    rows: list[dict[str, Any]],
) -> None:
    from transformers import AutoTokenizer

    folder = select(
        rows, "--model", tiny_model, "model.max_tokens=96", "finetune.batch_size=2", "finetune.micro_batch_size=2"
    )
    out, made = export(folder, "trl")
    assert made.lost == [OTHER_FIELDS]
    trained = run_script(out / "train.py", "--max-steps", "1", "--out", str(tmp_path / "tuned"))
    assert (tmp_path / "tuned" / "adapter_model.safetensors").exists()
    chat = Chat(AutoTokenizer.from_pretrained(tiny_model), max_tokens=96)
    expected = [chat.encode(example) for example in read_picked(folder).examples]
    assert len(trained) == len(expected)
    assert sum(encoded.n_supervised for encoded in expected) > 10
    for row, encoded in zip(trained, expected, strict=True):
        assert row["input_ids"] == encoded.input_ids.tolist()
        assert (np.array(row["labels"]) != -100).tolist() == encoded.mask.tolist()


def test_full_tuning_and_a_model_of_ones_choice(
    select: Callable[..., Path], run_script: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    folder = select(ROWS[:1], "finetune.tuning=full", "finetune.batch_size=1", "finetune.micro_batch_size=1")
    out, made = export(folder, "trl")
    assert "--model NAME" in made.usage
    with pytest.raises(SystemExit):
        run_script(out / "train.py", "--max-steps", "1")
    (out / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    run_script(out / "train.py", "--max-steps", "1", "--model", str(tiny_model), "--out", str(tmp_path / "tuned"))
    assert (tmp_path / "tuned" / "model.safetensors").exists()


# ---- LLaMA-Factory -------------------------------------------------------------------------------------------------


def _llama_factory_rows(out: Path) -> list[dict[str, Any]]:
    entry = json.loads((out / "dataset_info.json").read_text())["tamis_selection"]
    assert entry["formatting"] == "sharegpt"
    assert set(entry["columns"]) == {"messages", "system", "tools"}
    rows = [json.loads(line) for line in (out / entry["file_name"]).read_bytes().splitlines()]
    roles = [("human", "observation"), ("gpt", "function_call")]
    for row in rows:
        assert len(row["conversations"]) % 2 == 0
        assert all(turn["from"] in roles[place % 2] for place, turn in enumerate(row["conversations"]))
    return rows


def test_llama_factory_rows(select: Callable[..., Path]) -> None:
    out, made = export(select(ROWS), "llama-factory")
    rows = {row["source"] + str(len(row["conversations"])): row for row in _llama_factory_rows(out)}
    assert made.lost == [OTHER_FIELDS]
    assert "mask_history" not in made.usage
    assert rows["chat2"]["conversations"][1] == {"from": "gpt", "value": "Hello, é\u2028!"}
    assert rows["chat2"]["system"] == rows["chat2"]["tools"] == ""
    assert rows["chat4"]["system"] == "Be brief."
    call, result = rows["tools4"]["conversations"][1:3]
    assert call["from"] == "function_call"
    assert json.loads(call["value"]) == {"name": "find", "arguments": {"x": 1, "deep": {"y": [2, None]}}}
    assert result == {"from": "observation", "value": '{"at": 3}'}
    assert json.loads(rows["tools2"]["conversations"][1]["value"]) == [
        {"name": "find", "arguments": {"x": "s"}},
        {"name": "look", "arguments": {}},
    ]
    assert json.loads(rows["tools4"]["tools"]) == TOOLS


def test_llama_factory_is_told_what_it_cannot_have(select: Callable[..., Path]) -> None:
    two_users = {"id": "u", "messages": [{"role": "user", "content": "x"}, *_turns("y", "z")]}
    talks = {**ROWS[3], "id": "t", "messages": [ROWS[3]["messages"][0], {**ROWS[3]["messages"][1], "content": "Wait."}]}
    late = {"id": "s", "messages": [*_turns("k", "l"), {"role": "system", "content": "Now."}, *_turns("m", "n")]}
    folder = select([ROWS[0], two_users, talks, late, LAST_ONLY])
    out, made = export(folder, "llama-factory")
    assert len(_llama_factory_rows(out)) == 2
    assert "`mask_history: true`" in made.usage
    assert sorted(line.split(":")[0] for line in made.lost[:-1]) == [
        "1 rows are left out, since a system turn stands amid the conversation",
        "1 rows are left out, since a turn has both text and a tool call",
        "1 rows are left out, since replies and other turns do not alternate",
    ]
    assert made.lost[0] in (out / "README.md").read_text()
    with pytest.raises(InputError, match="LLaMA-Factory can read none of the rows: since replies"):
        export(select([two_users]), "llama-factory")


def test_what_llama_factory_itself_makes_of_it(select: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("llamafactory", reason="LLaMA-Factory is not installed")
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    out, _ = export(select(ROWS), "llama-factory")
    (entry,) = get_dataset_list(["tamis_selection"], str(out))
    arguments = DataArguments(dataset_dir=str(out), dataset="tamis_selection", template="qwen", overwrite_cache=True)
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "o"), report_to="none")
    rows = list(_load_single_dataset(entry, ModelArguments(model_name_or_path="x"), arguments, training))
    for row, written in zip(rows, _llama_factory_rows(out), strict=True):
        turns = row["_prompt"] + row["_response"]
        assert [turn["content"] for turn in turns] == [turn["value"] for turn in written["conversations"]]
        assert (row["_system"], row["_tools"]) == (written["system"], written["tools"])


# ---- Axolotl -------------------------------------------------------------------------------------------------------


def test_the_axolotl_configuration(select: Callable[..., Path], tiny_model: Path) -> None:
    out, made = export(select([*ROWS, LAST_ONLY], "--model", tiny_model, "finetune.lora_targets=all-linear"), "axolotl")
    config = yaml.safe_load((out / "axolotl.yaml").read_text())
    assert made.lost == [OTHER_FIELDS]
    assert config["base_model"] == str(tiny_model)
    assert config["sequence_len"] == 96
    assert config["lora_target_linear"] is True
    (data,) = config["datasets"]
    assert data["type"] == "chat_template"
    assert Path(data["path"]) == out / "data.parquet"
    assert "generation" not in Path(data["chat_template_jinja"]).read_text().replace("add_generation_prompt", "")
    turns = [turn for row in pq.read_table(data["path"]).to_pylist() for turn in row[data["field_messages"]]]
    assert [turn["content"] for turn in turns if turn[data["message_field_training"]] is False] == ["b"]


def test_axolotl_without_a_model_and_with_full_tuning(select: Callable[..., Path]) -> None:
    out, made = export(select(ROWS, "finetune.tuning=full", "finetune.steps=7"), "axolotl")
    config = yaml.safe_load((out / "axolotl.yaml").read_text())
    assert config.keys().isdisjoint({"base_model", "adapter", "lora_r", "num_epochs", "chat_template_jinja"})
    assert config["max_steps"] == 7
    assert made.lost == ["no model was used to select: add `base_model:` to axolotl.yaml", OTHER_FIELDS]


def test_axolotl_itself_learns_the_tokens_that_tamis_means(select: Callable[..., Path], tiny_model: Path) -> None:
    pytest.importorskip("axolotl", reason="Axolotl is not installed")
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from transformers import AutoTokenizer

    folder = select([*ROWS, LAST_ONLY, FIRST_ONLY], "--model", tiny_model)
    out, _ = export(folder, "axolotl")
    config = yaml.safe_load((out / "axolotl.yaml").read_text())
    checked = AxolotlInputConfig(**config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = DictDefault(checked.datasets[0].model_dump(exclude_none=True))
    strategy = load(tokenizer, DictDefault({**config, "train_on_inputs": False}), ds_cfg=data)
    chat = Chat(tokenizer, max_tokens=96)
    rows = pq.read_table(config["datasets"][0]["path"]).to_pylist()
    for row, example in zip(rows, read_picked(folder).examples, strict=True):
        tokens, encoded = strategy.tokenize_prompt(row), chat.encode(example)
        assert list(tokens["input_ids"])[:96] == encoded.input_ids.tolist()  # Axolotl cuts rows later
        assert [label != -100 for label in tokens["labels"]][:96] == encoded.mask.tolist()


# ---- what no trainer takes over, and wrong input -------------------------------------------------------------------


@pytest.mark.parametrize("trainer", TRAINERS)
def test_weights_are_a_column_that_nobody_reads_and_that_is_said(
    select: Callable[..., Path], cli: Callable[..., Any], trainer: str
) -> None:
    folder = select(ROWS[:2])
    table = pq.read_table(folder / "picks.parquet")
    place = table.schema.get_field_index("weight")
    pq.write_table(table.set_column(place, "weight", pa.array([0.5, 2.0])), folder / "picks.parquet")
    told = cli("export", folder, "--for", trainer).stdout
    assert "not taken over: the selector's weights are in the column `weight`" in told
    out = folder.with_name(f"picked-{trainer}")
    data = out / "data.parquet"
    rows = pq.read_table(data).to_pylist() if data.exists() else _json_rows(out / "data.jsonl")
    assert [row["weight"] for row in rows] == [0.5, 2.0]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_turns_that_are_not_learnt_are_told_of_where_they_are_lost(select: Callable[..., Path]) -> None:
    folder = select([FIRST_ONLY])
    told = "turns not to be learnt after a learnt one: TRL learns them, in 1 rows"
    assert export(folder, "trl")[1].lost == [told, OTHER_FIELDS]
    lost, _ = export(folder, "llama-factory")[1].lost
    assert lost == "which turns are learnt: LLaMA-Factory learns every reply; the data wants others in 1 rows"
    assert export(folder, "messages")[1].lost == [OTHER_FIELDS]


OPENS: dict[str, Any] = {"role": "assistant", "content": "Once."}
OPENING = {"id": "opening", "messages": [OPENS, *_turns("And?", "Twice.")]}


def test_rows_that_begin_with_a_learnt_turn_are_not_for_trl(select: Callable[..., Path]) -> None:
    unlearnt = {"id": "unlearnt", "messages": [{**OPENS, "train": False}, *_turns("And?", "Twice.")]}
    folder = select([ROWS[0], OPENING, unlearnt])
    (id_,) = [e.id for e in read_picked(folder).examples if e.messages[0].role == "assistant" and e.messages[0].in_loss]
    out, made = export(folder, "trl")
    assert made.lost == [
        f"1 rows are left out, since they begin with a learnt turn, and TRL needs a prompt: {id_}",
        OTHER_FIELDS,
    ]
    rows = _json_rows(out / "data.jsonl")
    assert [len(row["prompt"]) for row in sorted(rows, key=lambda row: len(row["prompt"]))] == [1, 2]
    assert (out / "README.md").read_text().startswith("# 2 rows for trl\n")
    assert json.loads((out / "manifest.json").read_text())["n_rows"] == 2
    with pytest.raises(InputError, match="TRL can read none of the rows: since they begin with a learnt turn"):
        export(select([OPENING]), "trl")


def test_of_many_rows_that_are_left_out_ten_are_told_of_and_all_are_in_a_file(select: Callable[..., Path]) -> None:
    many = [{"messages": [{"role": "user", "content": f"{n}"}, *_turns("y", "z")]} for n in range(12)]
    folder = select([ROWS[0], *many])
    ids = [example.id for example in read_picked(folder).examples if len(example.messages) == 3]
    out, made = export(folder, "llama-factory")
    reason = "since replies and other turns do not alternate"
    assert made.lost[0] == f"12 rows are left out, {reason}: {', '.join(ids[:10])} and 2 more, all in left_out.json"
    assert json.loads((out / "left_out.json").read_text()) == {reason: ids}


def test_the_order_of_the_picks_is_kept_or_told_of(select: Callable[..., Path]) -> None:
    folder = select(ROWS, "finetune.order=picked")
    for trainer in ("llama-factory", "axolotl"):
        assert sum(line.startswith("`finetune.order=picked`: ") for line in export(folder, trainer)[1].lost) == 1
    out, made = export(folder, "trl")
    assert made.lost == [OTHER_FIELDS]
    assert "train_sampling_strategy='sequential'" in (out / "train.py").read_text()


def test_fields_that_are_not_taken_over_are_told_of(select: Callable[..., Path]) -> None:
    turn = {"role": "user", "content": "Hi", "name": "Ada"}
    folder = select([{"messages": [turn, {"role": "assistant", "content": "Yes."}], "difficulty": 3}])
    for trainer in TRAINERS:
        out, _ = export(folder, trainer)
        text = (out / "README.md").read_text()
        assert "nothing" not in text
        assert f"- {OTHER_FIELDS}\n" in text
    assert b"Ada" in (folder / "selected.jsonl").read_bytes()


def test_wrong_input(select: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = select(ROWS)
    assert "--for: expected one of llama-factory, axolotl" in cli("export", folder, "--for", "trlx", code=2).stderr
    assert (
        "expected a selection of `tamis select`, but it has no"
        in cli("export", tmp_path, "--for", "trl", code=2).stderr
    )
    assert "holds a selection" in cli("export", folder, "--for", "trl", "--out", folder, code=2).stderr
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    assert "choose another --out" in cli("export", folder, "--for", "trl", "--out", other, code=2).stderr
    cli("export", folder, "--for", "trl")
    cli("export", folder, "--for", "trl")  # an export may be replaced
    selected = folder / "selected.jsonl"
    lines = selected.read_bytes().splitlines(keepends=True)
    selected.write_bytes(b"".join(lines[:-1]))
    assert "selected.jsonl has 3 rows, picks.parquet 4" in cli("export", folder, "--for", "trl", code=2).stderr
    selected.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    assert "row 1: not the row that was picked" in cli("export", folder, "--for", "trl", code=2).stderr
    (folder / "picks.parquet").write_bytes(b"PAR1")
    assert "picks.parquet cannot be read" in cli("export", folder, "--for", "trl", code=2).stderr
