"""The testbed's data: a pool in which every skill crosses every topic, and targets for any one skill.

Each row asks for one skill on a list of words of one topic, and says in the same words that another skill is not
wanted. So what rows share on the surface is the topic and the wording, and a skill's wording stands as often in rows
that do not want it; what a target wants is the skill. Targets use topics, wordings and sentence
frames that the pool does not have. All skills are made by the same rules: any of them can be the wanted one.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tamis.errors import InputError
from tamis.testbed.skills import SKILLS
from tamis.testbed.topics import HELD_OUT_TOPICS, TOPICS

Row = dict[str, Any]

POOL_FRAMES = (
    "{Request}: {words}",
    "{Request}. {words}.",
    "{words}. {Request}.",
    "Here are some {topic}: {words}. {Request}.",
    "{Request}, please. The {topic} are {words}.",
    "These are {topic}: {words}. Please {request}.",
)
TARGET_FRAMES = (
    "{Request} for me: {words}",
    "I have {words}. {Request}.",
    "My {topic}, {words}: {request}, thank you.",
)
NEGATIONS = ("Do not {other}.", "You need not {other}.", "I did not ask you to {other}.")


class Question(NamedTuple):
    """What a row asks: a skill, a list of words of one topic, and the words in which it is asked."""

    skill: str
    topic: str
    words: tuple[str, ...]
    text: str

    def answer(self) -> str:
        """The right answer."""
        return SKILLS[self.skill].answer(self.words)


def make_pool(n: int = 4000, seed: int = 0) -> list[Row]:
    """The pool: `n` rows in random order, in equal shares over skills and topics.

    In every crossing of skill and topic, one row in ten is `wrong` (in turn: the right answer to another skill, or to
    other words) and one in twenty a `duplicate` of an earlier right row (in turn: exact, or in another frame). `skill`,
    `topic` and `kind` are for counting afterwards; no method may read them. `source` is drawn at random.
    """
    rng = random.Random(f"pool/{seed}")
    n_cells = len(SKILLS) * len(TOPICS)
    rows: list[Row] = []
    for cell, (skill, topic) in enumerate((skill, topic) for skill in SKILLS for topic in TOPICS):
        rights: list[Question] = []
        for i in range(len(range(cell, n, n_cells))):
            ask = _ask(rng, skill, topic)
            if i % 10 == 9:
                rows.append(_row(ask, "wrong", _wrong_answer(rng, ask, other_skill=i % 20 == 9)))
            elif i % 20 == 18:
                ask = rng.choice(rights)
                ask = ask if i % 40 == 18 else _ask(rng, skill, topic, ask.words)
                rows.append(_row(ask, "duplicate"))
            else:
                rights.append(ask)
                rows.append(_row(ask, "right"))
    rng.shuffle(rows)
    return [{"id": f"pool-{i}", "source": rng.choice(("north", "south")), **row} for i, row in enumerate(rows)]


def make_target(skill: str, split: Literal["dev", "test"], n: int, seed: int = 0) -> list[Row]:
    """`n` right rows of one skill on topics that the pool lacks; `dev` and `test` never share a row, whatever `n`."""
    if skill not in SKILLS:
        raise InputError(f"expected a skill of the testbed ({', '.join(SKILLS)}), found {skill!r}; name one of these")
    rows = islice(_target_questions(skill, seed), ("dev", "test").index(split), 2 * n, 2)
    return [
        {"id": f"{skill}-{split}-{i}", "source": "testbed", **_row(question, "right")}
        for i, question in enumerate(rows)
    ]


def write_testbed(folder: Path, skill: str, seed: int = 0) -> tuple[Path, Path, Path]:
    """Write `pool.jsonl`, `target/dev.jsonl` (16 rows) and `target/test.jsonl` (100 rows); returns their paths."""
    contents = {
        folder / "pool.jsonl": make_pool(seed=seed),
        folder / "target" / "dev.jsonl": make_target(skill, "dev", 16, seed),
        folder / "target" / "test.jsonl": make_target(skill, "test", 100, seed),
    }
    (folder / "target").mkdir(parents=True, exist_ok=True)
    for path, rows in contents.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pool, dev, test = contents
    return pool, dev, test


def _target_questions(skill: str, seed: int) -> Iterator[Question]:
    """Endless questions, no list of words twice; dev takes the even ones, test the odd ones."""
    rng = random.Random(f"target/{skill}/{seed}")
    seen: set[tuple[str, ...]] = set()
    while True:
        question = _ask(rng, skill, rng.choice(list(HELD_OUT_TOPICS)))
        if question.words not in seen:
            seen.add(question.words)
            yield question


def _ask(rng: random.Random, skill: str, topic: str, words: tuple[str, ...] = ()) -> Question:
    held_out = topic in HELD_OUT_TOPICS
    words = words or tuple(rng.sample((TOPICS | HELD_OUT_TOPICS)[topic], rng.randint(3, 5)))
    request = rng.choice(SKILLS[skill].target_requests if held_out else SKILLS[skill].pool_requests)
    frame = rng.choice(TARGET_FRAMES if held_out else POOL_FRAMES)
    text = frame.format(Request=request.capitalize(), request=request, words=", ".join(words), topic=topic)
    other = SKILLS[rng.choice([name for name in SKILLS if name != skill])]
    unwanted = rng.choice(other.target_requests if held_out else other.pool_requests)
    negation = rng.choice(NEGATIONS).format(other=unwanted)
    text = f"{negation} {text}" if rng.random() < 0.5 else f"{text.removesuffix('.')}. {negation}"
    return Question(skill, topic, words, text)


def _wrong_answer(rng: random.Random, question: Question, *, other_skill: bool) -> str:
    """The answer to another skill, or to other words; drawn again until it is indeed wrong."""
    while True:
        skill = rng.choice(list(SKILLS)) if other_skill else question.skill
        words = question.words if other_skill else _ask(rng, question.skill, question.topic).words
        answer = SKILLS[skill].answer(words)
        if answer != question.answer():
            return answer


def _row(question: Question, kind: str, answer: str | None = None) -> Row:
    return {
        "skill": question.skill,
        "topic": question.topic,
        "kind": kind,
        "messages": [
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": question.answer() if answer is None else answer},
        ],
    }
