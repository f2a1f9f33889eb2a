"""lm-eval on local files, and that it agrees with tamis row by row."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tamis.config import load_config
from tamis.errors import InputError
from tamis.evaluating import evaluate
from tamis.evaluation import choice
from tamis.evaluation.harness import HarnessResults, HarnessSettings, check_harness, load_tasks, run_harness
from tamis.evaluation.harness_tasks import tasks_of
from tamis.evaluation.references import facts, options
from tamis.inputs import Inputs
from tamis.model.load import load_base
from tamis.settings import EvaluateConfig

needs_lm_eval = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="lm-eval is not installed")


def row(question: str, answer: str, **more: Any) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more})


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "choices.jsonl"
    texts = (("one", "1", "2"), ("two", "2", "3"), ("red", "u", "v"), ("a fig", "yes", "no"), ("moon", "sea", "rain"))
    lines = [row(f"Which is {q}?\nA. {a}\nB. {b}\nC. no\nAnswer:", "ABC"[i % 3]) for i, (q, a, b) in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "sums.jsonl"
    lines = [row(f"How much is {a} and {b}?", f"#### {a + b}", id=f"{a}+{b}") for a in (1, 7) for b in (2, 3)]
    turns = [{"role": role, "content": "Hm"} for role in ("user", "assistant", "user", "assistant")]
    path.write_text("\n".join([*lines, json.dumps({"messages": turns})]) + "\n")
    return path


def both(
    model_folder: Path, file: Path, task: str, folder: Path, limit: int | None = None
) -> tuple[Any, HarnessResults, nn.Module]:
    """Results of tamis and of lm-eval on the same rows."""
    tasks_of([str(file)], task, folder, "local", max_new_tokens=12)
    given = {"model.name": str(model_folder), "data.evaluation": str(file)}
    inputs = Inputs(load_config(None, given), lambda _: None)
    model = load_base(inputs.source)
    config = EvaluateConfig(task=task, max_new_tokens=12, limit=limit)
    ours = evaluate(model, inputs, None, inputs.evaluation, config, 0)
    settings = HarnessSettings(str(folder), limit, 2, 12)
    theirs = run_harness(
        model, inputs.tokenizer, inputs.chat, inputs.max_tokens, load_tasks(["local"], settings), settings
    )
    return ours, theirs, model


def picks(results: HarnessResults) -> list[str]:
    """The likeliest choice of each sample."""
    found = []
    for sample in results.samples["local"]:
        logs = [response[0][0] for response in sample["resps"]]
        found.append(sample["doc"]["choices"][logs.index(max(logs))])
    return found


@needs_lm_eval
def test_same_choices(tiny_model: Path, choices: Path, tmp_path: Path) -> None:
    ours, theirs, _ = both(tiny_model, choices, "choice", tmp_path)
    assert picks(theirs) == ours.outputs
    assert theirs.metrics["local"]["acc,none"] == pytest.approx(ours.scores.mean())
    assert [sample["acc"] for sample in theirs.samples["local"]] == ours.scores.tolist()


@needs_lm_eval
def test_same_choices_on_mmlu(shared: Path, tmp_path: Path) -> None:
    file = shared / "data/targets/mmlu/test.jsonl"
    ours, theirs, _ = both(shared / "models/tiny-llama", file, "choice", tmp_path, limit=60)
    assert len(ours.outputs) == 60
    assert picks(theirs) == ours.outputs
    assert len(set(ours.outputs)) > 1


@needs_lm_eval
def test_texts_differ_by_the_white_space_before_them(tiny_model: Path, tmp_path: Path) -> None:
    """lm-eval counts a newline that ends the prompt as the beginning of every option; with it scores are the same."""
    file = tmp_path / "texts.jsonl"
    metas = [
        {"correct": ["one two"], "incorrect": ["three", "No, no."]},
        {"correct": ["It is 8."], "incorrect": ["sea"]},
    ]
    file.write_text("\n".join(row(f"Which {i}?", "So.", meta=meta) for i, meta in enumerate(metas)))
    _, theirs, model = both(tiny_model, file, "choice", tmp_path)
    inputs = Inputs(load_config(None, {"model.name": str(tiny_model), "data.evaluation": str(file)}), lambda _: None)
    given = [options(e, f) for e, f in zip(inputs.evaluation, facts(list(inputs.evaluation)), strict=True)]
    rows = [
        choice.encode_options(inputs.chat, inputs.chat.prompt(e), o)
        for e, o in zip(inputs.evaluation, given, strict=True)
    ]
    for encoded in [encoded for row_ in rows for encoded in row_]:
        encoded.mask[encoded.mask.argmax() - 1] = True
    for values, o, sample in zip(choice.scores(model, rows, given, 4096), given, theirs.samples["local"], strict=True):
        lengths = [len(text) for text in o.texts]
        assert values * lengths == pytest.approx([response[0][0] for response in sample["resps"]], abs=1e-4)


@needs_lm_eval
def test_same_answers(tiny_model: Path, sums: Path, tmp_path: Path) -> None:
    from tamis.evaluation.tasks import numeric

    ours, theirs, _ = both(tiny_model, sums, "numeric", tmp_path, limit=4)
    texts = [sample["resps"][0][0] for sample in theirs.samples["local"]]
    assert [text.strip() for text in texts] == [str(text).strip() for text in ours.outputs]
    references = [sample["doc"]["references"] for sample in theirs.samples["local"]]
    scores = [numeric(t, r) for t, r in zip(texts, references, strict=True)]
    assert [sample["numeric"] for sample in theirs.samples["local"]] == scores == ours.scores.tolist()
    theirs.save(tmp_path)
    saved = [json.loads(line) for line in (tmp_path / "harness" / "local.jsonl").read_text().splitlines()]
    assert [sample["doc"]["id"] for sample in saved] == ["1+2", "1+3", "7+2", "7+3"]
    assert json.loads((tmp_path / "harness.json").read_text())["metrics"]["local"]["numeric,none"] == 0


def test_task_files(sums: Path, choices: Path, tmp_path: Path) -> None:
    made = tasks_of([str(sums)], "numeric", tmp_path, "sums", 20)
    assert made.n_rows == 4
    assert [(e.row, reason) for e, reason in made.left_out] == [
        (5, "expected one user turn and its answer, found user, assistant, user, assistant")
    ]
    text = made.path.read_text()
    assert "process_results: !function tamis_scores.numeric" in text
    assert f"test: {tmp_path / 'sums.jsonl'}" in text
    first = json.loads((tmp_path / "sums.jsonl").read_text().splitlines()[0])
    assert first == {"id": "1+2", "text": "How much is 1 and 2?", "answer": "#### 3", "references": ["#### 3"]}
    made = tasks_of([str(choices)], "choice", tmp_path, "choices")
    document = json.loads((tmp_path / "choices.jsonl").read_text().splitlines()[1])
    assert (document["choices"], document["right"]) == (["A", "B", "C"], 1)
    assert "metric: acc\n" in made.path.read_text()
    with pytest.raises(InputError, match="no row can be a document"):
        tasks_of([str(sums)], "choice", tmp_path, "x")
    with pytest.raises(InputError, match="expected a task among"):
        tasks_of([str(sums)], "code", tmp_path, "x")


def test_rows_that_no_task_file_can_have(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([row("How many?", "5"), '{"messages": "broken"}', "no json", row("Why?", "No number.")]))
    made = tasks_of([str(file)], "numeric", tmp_path / "tasks", "mine")
    assert made.n_rows == 1
    assert [bad.row for bad, _ in made.left_out] == [2, 3, 4]
    assert made.left_out[2][1] == "no number in its reference 'No number.'"
    assert tasks_of([str(file)], "f1", tmp_path / "tasks", "words").n_rows == 2


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "tamis\[harness\]"'):
        check_harness(["gsm8k"], None)


@needs_lm_eval
def test_unknown_tasks_and_folders(sums: Path, tmp_path: Path) -> None:
    tasks_of([str(sums)], "numeric", tmp_path, "sums_of_mine")
    with pytest.raises(InputError, match=r"no task 'sums_of_mien'.*nearest: sums_of_mine"):
        check_harness(["sums_of_mien"], str(tmp_path))
    with pytest.raises(InputError, match="expected a folder of lm-eval task files"):
        check_harness(["x"], str(tmp_path / "nowhere"))


@needs_lm_eval
def test_what_was_scored_before_lm_eval_failed_is_kept(
    cli: Any, tiny_model: Path, choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks_of([str(choices)], "choice", tmp_path / "tasks", "mine")
    given = ["--model", tiny_model, "--test", choices, "--harness", "mine", "--include-path", tmp_path / "tasks"]
    monkeypatch.setattr("lm_eval.evaluator.evaluate", lambda **_: {}["gone"])
    failed = cli("evaluate", *given, "--out", tmp_path / "out", code=2)
    assert "lm-eval cannot run mine: 'gone'" in failed.stderr
    assert "written to" in failed.stdout
    assert len((tmp_path / "out" / "examples.jsonl").read_text().splitlines()) == 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["missing"] == "lm-eval (mine) failed: lm-eval cannot run mine: 'gone'"
    assert not (tmp_path / "out" / "harness.json").exists()


@needs_lm_eval
def test_a_task_without_its_data_is_known_before_any_work(
    cli: Any, tiny_model: Path, choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks_of([str(choices)], "choice", tmp_path / "tasks", "mine")
    (tmp_path / "tasks" / "mine.jsonl").unlink()
    monkeypatch.setattr("tamis.evaluating.evaluate", lambda *_: pytest.fail("evaluated"))
    given = ["--model", tiny_model, "--test", choices, "--harness", "mine", "--include-path", tmp_path / "tasks"]
    assert "lm-eval cannot load mine" in cli("evaluate", *given, "--out", tmp_path / "out", code=2).stderr
    assert not (tmp_path / "out").exists()


@needs_lm_eval
def test_the_command(cli: Any, tiny_model: Path, choices: Path, tmp_path: Path) -> None:
    tasks_of([str(choices)], "choice", tmp_path / "tasks", "mine")
    given = ["--harness", "mine", "--include-path", tmp_path / "tasks", "--out", tmp_path / "out"]
    printed = cli("evaluate", "--model", tiny_model, *given).stdout
    assert "lm-eval mine  acc" in printed
    samples = (tmp_path / "out" / "harness" / "mine.jsonl").read_text().splitlines()
    assert len(samples) == 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["harness"] == ["mine"]
    assert "lm_eval" in manifest["versions"]
