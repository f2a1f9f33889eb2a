"""The pool's shares and kinds, the targets' disjointness, and determinism."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import InputError
from tamis.testbed import HELD_OUT_TOPICS, SKILLS, TOPICS, make_pool, make_target, write_testbed

POOL = make_pool()
TOPIC_WORDS = {word: topic for topic, words in (TOPICS | HELD_OUT_TOPICS).items() for word in words}


def question_and_answer(row: dict[str, Any]) -> tuple[str, str]:
    question, answer = row["messages"]
    assert (question["role"], answer["role"]) == ("user", "assistant")
    return question["content"], answer["content"]


def listed_words(row: dict[str, Any]) -> list[str]:
    """The words of the row's list, read from its text."""
    text = question_and_answer(row)[0].replace(",", " ").replace(".", " ").replace(":", " ")
    return [word for word in text.split() if TOPIC_WORDS.get(word) == row["topic"]]


def right_answer(row: dict[str, Any]) -> str:
    return SKILLS[row["skill"]].answer(listed_words(row))


def test_every_skill_crosses_every_topic_equally() -> None:
    cells = Counter((row["skill"], row["topic"], row["kind"]) for row in POOL)
    for skill in SKILLS:
        for topic in TOPICS:
            assert [cells[skill, topic, kind] for kind in ("right", "wrong", "duplicate")] == [34, 4, 2]
    assert len(POOL) == len({row["id"] for row in POOL}) == 4000


def test_right_rows_and_duplicates_are_right_and_wrong_rows_are_wrong() -> None:
    for row in POOL:
        assert 3 <= len(listed_words(row)) <= 5
        assert (question_and_answer(row)[1] == right_answer(row)) == (row["kind"] != "wrong"), row


def test_half_of_the_wrong_answers_are_another_skill_on_the_same_words() -> None:
    wrong = [row for row in POOL if row["kind"] == "wrong"]
    of_other_skill = [
        question_and_answer(row)[1] in {skill.answer(listed_words(row)) for skill in SKILLS.values()} for row in wrong
    ]
    assert sum(of_other_skill) == len(wrong) / 2


def test_duplicates_repeat_a_right_row() -> None:
    right = {(row["skill"], tuple(listed_words(row))) for row in POOL if row["kind"] == "right"}
    right_texts = {question_and_answer(row) for row in POOL if row["kind"] == "right"}
    duplicates = [row for row in POOL if row["kind"] == "duplicate"]
    assert all((row["skill"], tuple(listed_words(row))) in right for row in duplicates)
    assert sum(question_and_answer(row) in right_texts for row in duplicates) >= len(duplicates) / 2


def test_order_and_source_tell_nothing() -> None:
    first_half = Counter(row["skill"] for row in POOL[:2000])
    north = Counter(row["skill"] for row in POOL if row["source"] == "north")
    # 400 rows a skill: a fair half is 200 with a standard deviation of 10.
    assert all(150 < first_half[skill] < 250 and 150 < north[skill] < 250 for skill in SKILLS)


@pytest.mark.parametrize("n", [0, 1, 105])
def test_pool_of_any_size(n: int) -> None:
    counts = Counter((row["skill"], row["topic"]) for row in make_pool(n))
    assert sum(counts.values()) == n
    assert max(counts.values(), default=0) <= n // 100 + 1


@pytest.mark.parametrize("skill", SKILLS)
def test_targets_are_right_unseen_and_disjoint(skill: str) -> None:
    dev, test = make_target(skill, "dev", 16), make_target(skill, "test", 100)
    assert [len(dev), len(test)] == [16, 100]
    lists = [tuple(listed_words(row)) for row in dev + test]
    assert len(set(lists)) == 116
    pool_wordings = SKILLS[skill].pool_requests
    for row in dev + test:
        question, answer = question_and_answer(row)
        assert row["topic"] in HELD_OUT_TOPICS
        assert row["skill"] == skill
        assert answer == right_answer(row)
        assert not any(f"{request}{end}" in question.lower() for request in pool_wordings for end in (":", ".", ","))
    assert make_target(skill, "dev", 4) == dev[:4]


def test_seeds_differ() -> None:
    assert make_pool(200, seed=1) != make_pool(200, seed=2) != make_pool(200, seed=1)
    assert make_target("sort", "dev", 4, seed=1) != make_target("sort", "dev", 4, seed=2)


def test_same_rows_in_every_process_and_no_torch() -> None:
    script = (
        "import hashlib, json, sys; from tamis.testbed import make_pool, make_target;"
        "rows = make_pool(300, seed=3) + make_target('pair', 'test', 9, seed=3);"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest(), 'torch' in sys.modules)"
    )
    here = hashlib.sha256(json.dumps(make_pool(300, seed=3) + make_target("pair", "test", 9, seed=3)).encode())
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.split() == [here.hexdigest(), "False"]


def test_write_testbed(tmp_path: Path) -> None:
    pool, dev, test = write_testbed(tmp_path / "new", "rotate", seed=5)
    assert [p.relative_to(tmp_path / "new").as_posix() for p in (pool, dev, test)] == [
        "pool.jsonl",
        "target/dev.jsonl",
        "target/test.jsonl",
    ]
    expected = make_pool(seed=5), make_target("rotate", "dev", 16, 5), make_target("rotate", "test", 100, 5)
    for path, rows in zip((pool, dev, test), expected, strict=True):
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == rows


def test_unknown_skill() -> None:
    with pytest.raises(InputError, match=r"expected a skill of the testbed \(reverse, .*found 'juggle'"):
        make_target("juggle", "dev", 4)
