"""What rows say of the right answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.data.files import read
from tamis.errors import InputError
from tamis.evaluation.references import Options, facts, options, references


def rows(tmp_path: Path, *given: dict[str, Any]) -> list[tuple[Any, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), encoding="utf-8")
    examples = list(read([str(path)]).examples)
    return list(zip(examples, facts(examples), strict=True))


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("so 15",)),
        ({"meta": {"answer": "15"}}, ("15",)),
        ({"meta": {"answer": 15}}, ("15",)),
        ({"meta": {"answers": ["a", "b"], "answer": "c"}}, ("a", "b")),
        ({"meta": {"answers": {"text": ["a"], "answer_start": [3]}}}, ("a",)),
        ({"meta": '{"answer": "15"}'}, ("15",)),  # as tables hold it
        ({"meta": None}, ("so 15",)),
        ({"meta": {"answer": ""}}, ("so 15",)),
        ({"answers": ["x"], "meta": {}}, ("x",)),
    ],
)
def test_references(tmp_path: Path, more: dict[str, Any], expected: tuple[str, ...]) -> None:
    ((example, row_),) = rows(tmp_path, row("How many?", "so 15", **more))
    assert references(example, row_) == expected


MMLU = "Which?\nI. one\nII. two\nA. I only\nB. II only\nC. Both.\nD. C\nAnswer:"


@pytest.mark.parametrize(
    ("question", "answer", "more", "expected"),
    [
        (MMLU, "B", {}, Options(("A", "B", "C", "D"), 1, False)),
        (MMLU, "x", {"meta": {"answer": "C"}}, Options(("A", "B", "C", "D"), 2, False)),  # not D, whose text is C
        (MMLU, "II only", {}, Options(("A", "B", "C", "D"), 1, False)),
        (MMLU, "C. Both.", {}, Options(("A", "B", "C", "D"), 2, False)),
        (MMLU, "(D).", {}, Options(("A", "B", "C", "D"), 3, False)),
        ("A. Smith asks.\nA. yes\nB. no", "A", {}, Options(("A", "B"), 0, False)),
        ("Options:\n(A) 12\n(B) 13\n(C) 14", "(B)", {}, Options(("(A)", "(B)", "(C)"), 1, False)),
        ("A) yes\nB) no", "B", {}, Options(("A", "B"), 1, False)),
        (
            "Truth?",
            "Also so.",
            {"meta": {"correct": ["So.", "Also so."], "incorrect": ["Not so.", "Never."]}},
            Options(("Also so.", "Not so.", "Never."), 0, True),
        ),
        (
            "Truth?",
            "Hm.",
            {"meta": {"correct": ["So."], "incorrect": ["Not so."]}},
            Options(("So.", "Not so."), 0, True),
        ),
        ("Which?", "red", {"meta": {"choices": ["blue", "red"], "answer": 1}}, Options(("blue", "red"), 1, True)),
        ("Which?", "red", {"meta": {"choices": ["blue", "red"], "answer": "B"}}, Options(("blue", "red"), 1, True)),
        ("Which?", "red", {"meta": {"choices": ["blue", "red"]}}, Options(("blue", "red"), 1, True)),
        ("Which?", "x", {"meta": {"choices": [1, 2], "answer": "1"}}, Options(("1", "2"), 0, True)),
        ("Which?", "x", {"meta": {"choices": [0, 1], "answer": 1}}, Options(("0", "1"), 1, True)),
        ("Which?", "x", {"meta": {"choices": [3, 4], "answer": 4}}, Options(("3", "4"), 1, True)),
        ("A. I\nB. II\nC. III", "I", {}, Options(("A", "B", "C"), 0, False)),  # no letter among them, but a text
        ("A. x\nB. y", "Answer: B", {}, Options(("A", "B"), 1, False)),
        ("A. x\nB. y", "The answer is (b).", {}, Options(("A", "B"), 1, False)),
        ("A. x\nB. y", "b", {}, Options(("A", "B"), 1, False)),
    ],
)
def test_options(tmp_path: Path, question: str, answer: str, more: dict[str, Any], expected: Options) -> None:
    ((example, row_),) = rows(tmp_path, row(question, answer, **more))
    assert options(example, row_) == expected


@pytest.mark.parametrize(
    ("question", "answer", "more", "said"),
    [
        ("Which?", "A", {}, "no options"),
        ("A. yes", "A", {}, "no options"),
        (MMLU, "E", {}, "letters A, B, C, D.*found 'E'"),
        (MMLU, "None of these", {}, "found 'None of these'"),
        ("Which?", "green", {"meta": {"choices": ["blue", "red"]}}, "found 'green'"),
        ("Which?", "x", {"meta": {"choices": ["blue", "red"], "answer": 2}}, "found '2'"),
        ("Which?", "x", {"meta": {"choices": [1, 2], "answer": 1}}, "text of one choice and the place of another"),
    ],
)
def test_rows_without_options(tmp_path: Path, question: str, answer: str, more: dict[str, Any], said: str) -> None:
    ((example, row_),) = rows(tmp_path, row(question, answer, **more))
    with pytest.raises(InputError, match=said):
        options(example, row_)


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    ((example, _),) = rows(tmp_path, row("Which?", "A"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("Which?", "B")) + "\n")
    with pytest.raises(InputError, match="changed since it was read"):
        facts([example])


def test_every_mmlu_row_has_the_letter_its_meta_says(shared: Path) -> None:
    examples = list(read([str(shared / "data/targets/mmlu/test.jsonl")]).examples)
    found = [(options(e, row_), row_["answer"]) for e, row_ in zip(examples, facts(examples), strict=True)]
    assert len(found) == 570
    assert all(given.texts == ("A", "B", "C", "D") and given.texts[given.right] == answer for given, answer in found)
