"""Task files of lm-eval made from local files of rows, so that lm-eval runs on them without network, or on its own:

    lm_eval --model hf --model_args pretrained=MODEL --include_path FOLDER --tasks NAME

Rows are read as everywhere in tamis. A task is three files: NAME.yaml, NAME.jsonl with one document a row ({"id",
"text", "references"} and for a choice {"choices", "right"}), and tamis_scores.py, by which lm-eval scores as
`evaluation.tasks` does; so answers scored by both have the same score.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamis.data.example import Example
from tamis.data.export import atomic_write
from tamis.data.files import Rejected, read
from tamis.errors import InputError
from tamis.evaluation.references import answer, facts, options, references
from tamis.evaluation.tasks import SCORERS, check_references

_SCORES = '''"""How lm-eval scores an answer as tamis does; named by the task files beside it."""

from tamis.evaluation import tasks

'''
_SCORE = """
def {task}(doc, results):
    return {{"{task}": tasks.{task}(results[0], doc["references"])}}

"""


@dataclass(frozen=True, slots=True)
class TaskFile:
    """The task file that was written, the rows it has, and those left out or unreadable with the reason of each."""

    path: Path
    n_rows: int
    left_out: list[tuple[Example | Rejected, str]]


def tasks_of(files: Sequence[str], task: str, folder: str | Path, name: str, max_new_tokens: int = 256) -> TaskFile:
    """Write a task of lm-eval from files of rows.

    task   exact_match, numeric or f1 (lm-eval's generate_until), or choice (its multiple_choice: acc of letters, and
           acc_norm, by characters, of options that are texts)

    Rows with more before the answer than one user turn are left out: lm-eval has no place for it. InputError: no such
    task, no row left, or options that are letters in some rows and texts in others.
    """
    if task not in (*SCORERS, "choice"):
        raise InputError(f"expected a task among {', '.join((*SCORERS, 'choice'))}, got {task!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = read(files)
    examples = list(found.examples)
    documents: list[dict[str, Any]] = []
    by_length: set[bool] = set()
    left_out: list[tuple[Example | Rejected, str]] = [(bad, bad.reason) for bad in found.rejected]
    for example, row in zip(examples, facts(examples), strict=True):
        try:
            document = _document(example)
            if task == "choice":
                given = options(example, row)
                by_length.add(given.by_length)
                document |= {"choices": given.texts, "right": given.right}
            else:
                document["references"] = references(example, row)
                check_references(task, document["references"])
            documents.append(document)
        except InputError as error:
            left_out.append((example, str(error)))
    if not documents:
        reason = left_out[0][1] if left_out else "there is none"
        raise InputError(f"{', '.join(files)}: no row can be a document of lm-eval: {reason}")
    if len(by_length) > 1:
        raise InputError(f"{', '.join(files)}: some rows choose among letters and some among texts: part the file")
    lines = (json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in documents)
    atomic_write(folder / f"{name}.jsonl", lines)
    atomic_write(folder / "tamis_scores.py", (_SCORES + "".join(_SCORE.format(task=t) for t in SCORERS)).encode())
    settings = _settings(task, folder / f"{name}.jsonl", by_length == {True}, max_new_tokens)
    path = folder / f"{name}.yaml"
    text = yaml.safe_dump({"task": name, **settings}, sort_keys=False)
    function = "" if task == "choice" else f"process_results: !function tamis_scores.{task}\n"
    atomic_write(path, (text + function).encode())
    return TaskFile(path, len(documents), left_out)


def _document(example: Example) -> dict[str, Any]:
    if [message.role for message in example.messages] != ["user", "assistant"]:
        roles = ", ".join(message.role for message in example.messages)
        raise InputError(f"expected one user turn and its answer, found {roles}")
    return {"id": example.row_id or example.id, "text": example.messages[0].content, "answer": answer(example)}


def _settings(task: str, data: Path, by_length: bool, max_new_tokens: int) -> dict[str, Any]:
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.absolute())}},
        "test_split": "test",
        "doc_to_text": "text",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    if task == "choice":
        metric = "acc_norm" if by_length else "acc"
        return {
            **shared,
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "right",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        }
    return {
        **shared,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_new_tokens},
        "metric_list": [{"metric": task, "aggregation": "mean", "higher_is_better": True}],
    }
