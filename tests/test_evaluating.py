"""Evaluation from rows to a folder: in Python, and by the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import tamis.evaluating
from tamis.config import load_config
from tamis.errors import InputError
from tamis.evaluating import Evaluation, evaluate
from tamis.evaluation.generate import Answer
from tamis.evaluation.loss import losses
from tamis.evaluation.tasks import SCORERS
from tamis.ids import digest as ids_digest
from tamis.inputs import Inputs
from tamis.model.load import LoraSettings, ModelSource, add_lora, load_base
from tamis.settings import EvaluateConfig


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


TEST = [
    row("How much is 4 and 4?", "It is 8.", id="e1", meta={"answer": "8"}),
    row("How much is 9 and 1?", "So\n#### 10", id="e2", subtask="sums"),
    row("Call it.", "No number here.", id="e3"),
    row("Why? " * 60, "So 5.", id="long"),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    return load_base(ModelSource(str(tiny_model)))


@pytest.fixture
def run(
    tiny_model: Path, target_file: Path, tmp_path: Path, model: nn.Module, recorder: Any
) -> Callable[..., tuple[Evaluation, Inputs, list[str]]]:
    """run(rows, **settings of evaluate): the evaluation, its inputs and what was noted."""

    def evaluated(rows: list[dict[str, Any]], **settings: Any) -> tuple[Evaluation, Inputs, list[str]]:
        path = tmp_path / "test.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"model.name": str(tiny_model), "data.target": str(target_file), "data.evaluation": str(path)}
        told = recorder()
        inputs = Inputs(load_config(None, given), told.note)
        config = EvaluateConfig(**{"max_new_tokens": 16, **settings})
        return evaluate(model, inputs, inputs.target, inputs.evaluation, config, 0), inputs, told.notes

    return evaluated


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """scripted(*texts): what the model is to have written, row by row."""

    def script(*texts: str) -> None:
        def write(model: Any, tokenizer: Any, prompts: list[Any], *_: Any) -> list[Answer]:
            assert len(prompts) == len(texts)
            return [Answer(text, text.endswith("…")) for text in texts]

        monkeypatch.setattr(tamis.evaluating, "generate", write)

    return script


def test_losses_of_target_and_test(run: Callable[..., Any], model: nn.Module) -> None:
    found, inputs, notes = run(TEST)
    assert found.task == "loss"
    encoded = [inputs.encode(example) for example in inputs.evaluation]
    assert np.allclose(found.test_losses[:3], losses(model, encoded[:3]))
    assert np.allclose(found.target_losses, losses(model, [inputs.encode(e) for e in inputs.target]))
    assert np.isnan(found.test_losses[3])
    assert found.test_reasons == [None, None, None, "no completion token within 96 tokens"]
    assert any("test, without a loss: 1 row" in note and "row 4: no completion token" in note for note in notes)
    assert np.isnan(found.scores).all()
    means = found.means()
    assert means["test_loss"]["mean"] == pytest.approx(found.test_losses[:3].mean())
    assert (means["test_loss"]["n_rows"], means["test_loss"]["n_skipped"]) == (3, 1)
    assert list(means) == ["target_loss", "test_loss"]


def test_numeric(run: Callable[..., Any], scripted: Callable[..., None]) -> None:
    scripted("4 and 4 is 8.", "#### 11\n#### 10", "5")
    found, _, notes = run(TEST, task="numeric")
    assert found.scores[[0, 1, 3]].tolist() == [1, 0, 1]
    assert np.isnan(found.scores[2])
    assert found.outputs == ["4 and 4 is 8.", "#### 11\n#### 10", None, "5"]
    assert found.references == [("8",), ("So\n#### 10",), (), ("So 5.",)]
    assert found.score_reasons == [None, None, "no number in its reference 'No number here.'", None]
    assert any(note.startswith("test, not scored by numeric: 1 row:") for note in notes)
    assert any(note.startswith("test, prompts cut on the left: 1 row:") for note in notes)
    numbers = found.means()["numeric"]
    assert numbers["mean"] == pytest.approx(2 / 3)
    # Wilson: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96, n = 3
    assert (numbers["low"], numbers["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)


def test_exact_match_and_f1(run: Callable[..., Any], scripted: Callable[..., None]) -> None:
    rows = [row("Capital?", "Paris", meta={"answers": ["Paris", "the city of Paris"]}), row("True?", "False")]
    scripted("The city of Paris.", "true")
    assert run(rows, task="exact_match")[0].scores.tolist() == [1, 0]
    scripted("city Paris", "It is false")
    assert run(rows, task="f1")[0].scores.tolist() == pytest.approx([4 / 5, 1 / 2])


CODE = row(
    "Complete.\n\n```python\ndef double(x):\n    '''Twice x.'''\n```",
    "```python\ndef double(x):\n    return 2 * x\n```",
    meta={"entry_point": "double", "test": "def check(candidate):\n    assert candidate(3) == 6\n"},
)


def test_code_runs_in_the_sandbox(run: Callable[..., Any], scripted: Callable[..., None]) -> None:
    from tamis.evaluation.code import check_sandbox

    try:
        check_sandbox()
    except InputError as error:
        pytest.skip(str(error))
    scripted("```python\ndef double(x):\n    return 2 * x\n```", "```python\ndef double(x):\n    return x\n```")
    found, _, _ = run([CODE, CODE, TEST[0]], task="code", run_code=True)
    assert found.scores[:2].tolist() == [1, 0]
    assert np.isnan(found.scores[2])
    assert found.score_reasons[0] is None
    assert "assert" in str(found.score_reasons[1])
    assert "meta.test and meta.entry_point" in str(found.score_reasons[2])


def test_a_sandbox_that_does_not_start_is_its_rows_reason(
    run: Callable[..., Any], scripted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.evaluation.sandbox import Outcome

    def run_tests(programs: list[str]) -> list[Outcome]:
        if any("return x" in program for program in programs):
            raise InputError("no sandbox: it did not start")
        return [Outcome(True, "passed")] * len(programs)

    monkeypatch.setattr("tamis.evaluation.code.run_tests", run_tests)
    monkeypatch.setattr("tamis.evaluation.code.check_sandbox", lambda: None)
    scripted("    return 2 * x", "    return x")
    found, _, _ = run([CODE, CODE], task="code", run_code=True)
    assert found.scores[0] == 1
    assert np.isnan(found.scores[1])
    assert found.score_reasons == [None, "no sandbox: it did not start"]


def test_answers_that_were_cut_are_told(run: Callable[..., Any], scripted: Callable[..., None]) -> None:
    scripted("8", "So 4 and …", "5 …")
    found, _, notes = run(TEST, task="numeric")
    assert found.cut == [False, True, False, True]
    assert [record["cut"] for record in found.records() if record["set"] == "test"] == found.cut
    assert any(note.startswith("test, answers cut at max_new_tokens: 2 rows") for note in notes)


def test_code_is_not_run_unasked(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tamis.evaluating, "generate", lambda *_: pytest.fail("written"))
    with pytest.raises(InputError, match="say --run-code"):
        run([CODE], task="code")


CHOICE = [
    row(f"Which is {what}?\nA. {a}\nB. {b}\nC. no\nAnswer:", letter)
    for what, a, b, letter in (
        ("one", "1", "2", "A"),
        ("two", "1", "2", "B"),
        ("x", "y", "z", "C"),
        ("red", "u", "v", "A"),
    )
]


def test_choice_scores_the_likeliest_letter(run: Callable[..., Any], model: nn.Module) -> None:
    found, inputs, _ = run([*CHOICE, TEST[0]], task="choice")
    chat, tokenizer = inputs.chat, inputs.tokenizer
    import torch

    for i, example in enumerate(inputs.evaluation[:4]):
        ids = chat.encode_prompt(chat.prompt(example), 96).input_ids.astype(np.int64)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]
        letters = [int(tokenizer(letter, add_special_tokens=False)["input_ids"][0]) for letter in "ABC"]
        best = "ABC"[int(logits[letters].argmax())]
        assert found.outputs[i] == best
        assert found.scores[i] == (best == example.messages[-1].content)
    assert np.isnan(found.scores[4])
    assert "no options" in str(found.score_reasons[4])


def test_rows_of_a_batch_do_not_matter_to_each_other(run: Callable[..., Any]) -> None:
    for task, rows in (("choice", CHOICE), ("numeric", TEST)):
        for temperature in (0.0, 1.0):
            alone, together = (run(rows, task=task, batch_tokens=n, temperature=temperature)[0] for n in (1, 4096))
            assert alone.outputs == together.outputs
            assert np.array_equal(alone.scores, together.scores, equal_nan=True)
            assert np.allclose(alone.test_losses, together.test_losses, atol=1e-5, equal_nan=True)


def test_limit(run: Callable[..., Any]) -> None:
    found, _, _ = run(TEST, task="numeric", limit=2)
    assert len(found.test) == len(found.scores) == len(found.outputs) == 2


def test_no_row_that_can_be_scored(run: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"no test row can be scored by choice.*row 1: no options"):
        run(TEST, task="choice")


def test_a_prompt_needs_room(run: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="max_new_tokens is 96, but a row has at most 96 tokens"):
        run(TEST, task="numeric", max_new_tokens=96)


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*CHOICE, TEST[0]]))
    return path


def test_the_command_writes_every_row(
    cli: Callable[..., Any], tiny_model: Path, rows_file: Path, target_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ["evaluate", "--model", tiny_model, "--test", rows_file, "--target", target_file, "--task", "choice"]
    printed = cli(*given, "--out", out).stdout
    records = [json.loads(line) for line in (out / "examples.jsonl").read_text().splitlines()]
    assert [(r["set"], r["row"]) for r in records] == [
        *(("target", i) for i in (1, 2, 3, 4)),
        *(("test", i) for i in range(1, 6)),
    ]
    scored = [r for r in records if r["set"] == "test"]
    assert [r["score"] == 1 for r in scored[:4]] == [[r["output"]] == r["reference"] for r in scored[:4]]
    assert scored[4]["score"] is None
    assert "no options" in scored[4]["reason"]
    manifest = json.loads((out / "manifest.json").read_text())
    mean = np.mean([r["score"] for r in scored[:4]])
    assert manifest["means"]["choice"]["mean"] == mean
    assert f"{mean:.1%}" in printed
    assert "4 rows, 1 skipped" in printed
    assert manifest["means"]["target_loss"]["mean"] == pytest.approx(np.mean([r["loss"] for r in records[:4]]))
    assert manifest["left_out"]["test, not scored by choice"][0]["row"] == 5
    few = tmp_path / "few"
    cli(*given, "--limit", 3, "--out", few)
    of_few = json.loads((few / "manifest.json").read_text())["test"]
    assert of_few == {"digest": ids_digest([r["id"] for r in scored[:3]]), "n_rows": 3}
    assert manifest["test"]["n_rows"] == 5
    # config.yaml says it all again
    again = tmp_path / "again"
    cli("evaluate", out / "config.yaml", "--out", again)
    assert (again / "examples.jsonl").read_bytes() == (out / "examples.jsonl").read_bytes()


def test_the_command_takes_an_adapter(
    cli: Callable[..., Any], tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    adapted: Any = add_lora(load_base(ModelSource(str(tiny_model))), LoraSettings(4, 8, 0.0, "attention"), 0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter.data, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer_files(tiny_model, tmp_path / "merged")

    def found(*given: object) -> list[float]:
        cli("evaluate", "--test", rows_file, *given, "--out", tmp_path / "out")
        return [json.loads(line)["loss"] for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]

    base = found("--model", tiny_model)
    with_adapter = found("--model", tiny_model, "--adapter", tmp_path / "adapter")
    assert not np.allclose(with_adapter, base, atol=1e-3)
    assert np.allclose(found("--model", tmp_path / "merged"), with_adapter, atol=1e-4)


def load_tokenizer_files(source: Path, to: Path) -> None:
    for path in source.glob("tokenizer*"):
        (to / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "nothing to score on: say --test FILE"),
        (["--task", "choice", "--harness", "x"], "task choice needs test rows"),
        (["--test", "rows.jsonl", "--task", "code"], "say --run-code"),
        (["--test", "rows.jsonl", "--task", "numbr"], "evaluate.task"),
        (["--test", "rows.jsonl", "--task", "numeric"], "max_new_tokens is 256"),
        (["--test", "rows.jsonl", "--adapter", "nowhere"], "expected a PEFT adapter"),
        (["--test", "rows.jsonl", "--progress", "loud"], "--progress"),
        (["--test", "rows.jsonl", "--out", "."], "choose another --out"),
    ],
)
def test_wrong_input_is_one_sentence_and_changes_nothing(
    cli: Callable[..., Any],
    tiny_model: Path,
    rows_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(rows_file.parent)
    result = cli("evaluate", "--model", tiny_model, *given, code=2)
    assert said in result.stderr
    assert [path.name for path in rows_file.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("name", "task", "n_rows"),
    [("gsm8k", "numeric", 3), ("mmlu", "choice", 20), ("tydiqa", "f1", 4), ("truthfulqa", "choice", 12)],
)
def test_real_rows(shared: Path, cli: Callable[..., Any], tmp_path: Path, name: str, task: str, n_rows: int) -> None:
    model, test = shared / "models/tiny-llama", shared / f"data/targets/{name}/test.jsonl"
    given = ["--task", task, "--limit", n_rows, "--max-new-tokens", 24, "--out", tmp_path / "out"]
    cli("evaluate", "--model", model, "--test", test, *given)
    records = [json.loads(line) for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]
    assert len(records) == n_rows
    for r in records:  # scored again from what is on record
        right = r["output"] == r["reference"][0] if task == "choice" else SCORERS[task](r["output"], r["reference"])
        assert r["score"] == right
        assert r["loss"] > 0
    source = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()[:n_rows]]
    assert [r["row_id"] for r in records] == [row["id"] for row in source]
    for r, given_row in zip(records, source, strict=True):  # and the references are the file's
        meta = given_row["meta"]
        if task == "choice":
            assert r["reference"][0] in meta.get("correct", [meta.get("answer")])
            assert r["score"] or r["output"] in meta.get("incorrect", "ABCD")
        else:
            assert r["reference"] == [str(text) for text in meta.get("answers") or [meta["answer"]]]
    if task == "choice":
        assert len({r["score"] for r in records}) == 2, "a small model is neither always right nor always wrong"
