"""What a test row says of the right answer: its fields `meta`, or those of the row itself, or its last answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.data.example import Example
from tamis.data.export import original_rows
from tamis.data.formats import unwrapped
from tamis.data.lines import parse
from tamis.data.messages import decoded
from tamis.errors import InputError

Facts = Mapping[str, Any]

# "A. text", "A) text", "(A) text", "A: text" at the beginning of a line
_OPTION = re.compile(r"^[ \t]*(?P<open>\(?)(?P<letter>[A-Z])[.):][ \t]+(?P<text>\S.*)$", re.MULTILINE)
_LETTER = re.compile(r"(?:(?i:(?:the )?answer)(?: is:?|:) *)?\W*([A-Za-z])\W*\Z")
_LETTER_AND_TEXT = re.compile(r"\W*([A-Z])[.):]\s")


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be chosen from, and the place of the right one. by_length: they are of several lengths."""

    texts: tuple[str, ...]
    right: int
    by_length: bool


def facts(examples: Sequence[Example]) -> list[Facts]:
    """The fields of each example's original row: those of its field `meta` before its own.

    The files are read again. InputError where one is gone or has changed.
    """
    rows = [unwrapped(parse(line)) for line in original_rows(examples)]
    metas = [decoded(row.get("meta")) for row in rows]
    return [{**row, **meta} if isinstance(meta, dict) else row for row, meta in zip(rows, metas, strict=True)]


def question(example: Example) -> str:
    """The last user turn."""
    return next((m.content for m in reversed(example.messages) if m.role == "user"), "")


def answer(example: Example) -> str:
    """The last assistant turn."""
    return next((m.content for m in reversed(example.messages) if m.role == "assistant"), "")


def references(example: Example, row: Facts) -> tuple[str, ...]:
    """Right answers: `answers` (texts, or SQuAD's {"text": [...]}), else `answer`, else the last assistant turn."""
    several = decoded(row.get("answers"))
    if isinstance(several, dict):
        several = several.get("text")
    texts = _texts(several) if isinstance(several, list) else ()
    return texts or _texts([row.get("answer")]) or (answer(example),)


def options(example: Example, row: Facts) -> Options:
    """What the row lets a model choose from; the first of these that it has:

    correct, incorrect   lists of texts, as TruthfulQA has them. The options are the reference (the last assistant turn
                         where it is among the correct ones, else the first of these) and every incorrect one: MC1
    choices              a list of texts; `answer` is the right one's text, place from 0, or letter. A number that is
                         one choice's text and another's place names none
    letters              the last lines "A. …", "B. …", … of the question, as MMLU has them; the options are their
                         letters ("(A)" where they stand so), and the reference is the right one's letter, its text,
                         or begins with "B. "; "b" and "Answer: B" are B

    InputError: none of these, or no right one among them.
    """
    correct, incorrect = (_listed(row, name) for name in ("correct", "incorrect"))
    if correct and incorrect:
        best = answer(example) if answer(example) in correct else correct[0]
        return Options((best, *(text for text in incorrect if text != best)), 0, True)
    wanted = row.get("answer")
    if choices := _listed(row, "choices"):
        return Options(choices, _place(wanted if wanted is not None else answer(example), choices), True)
    lettered = _lettered(question(example))
    if len(lettered) < 2:
        raise InputError("no options: expected correct and incorrect, choices, or lines 'A. …', 'B. …' in the question")
    return Options(tuple(shown for shown, _ in lettered), _right(references(example, row)[0], lettered), False)


def _lettered(text: str) -> list[tuple[str, str]]:
    """The last run of lines A, B, C, …: each letter, in parentheses where it stands so, with the text after it."""
    best: list[tuple[str, str]] = []
    run: list[tuple[str, str]] = []
    for found in _OPTION.finditer(text):
        letter = found["letter"]
        if letter == "A":
            run = []
        if ord(letter) == ord("A") + len(run):
            run.append((f"({letter})" if found["open"] else letter, found["text"].strip()))
        if len(run) > 1:
            best = run
    return best


def _right(reference: str, lettered: list[tuple[str, str]]) -> int:
    """The place of the option that a reference names: by its letter alone, by its text, or by letter and text."""
    letters = [shown.strip("()") for shown, _ in lettered]
    texts = [text for _, text in lettered]
    reference = reference.strip()
    for pattern in (_LETTER, None, _LETTER_AND_TEXT):
        if pattern is None:
            if texts.count(reference) == 1:
                return texts.index(reference)
        elif (found := pattern.match(reference)) and found[1].upper() in letters:
            return letters.index(found[1].upper())
    raise InputError(f"expected one of the letters {', '.join(letters)} as its answer, found {reference[:40]!r}")


def _place(wanted: Any, choices: tuple[str, ...]) -> int:
    is_place = isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(choices)
    named = [i for i, text in enumerate(choices) if text == str(wanted)]
    if is_place and named and named != [wanted]:
        raise InputError(f"its answer {wanted} is the text of one choice and the place of another: give it as a text")
    if is_place:
        return int(wanted)
    if named:
        return named[0]
    if isinstance(wanted, str) and len(wanted) == 1 and 0 <= ord(wanted) - ord("A") < len(choices):
        return ord(wanted) - ord("A")
    raise InputError(f"expected an answer that is the text, place or letter of a choice, found {str(wanted)[:40]!r}")


def _listed(row: Facts, name: str) -> tuple[str, ...]:
    values = decoded(row.get(name))
    return _texts(values) if isinstance(values, list) else ()


def _texts(values: list[Any]) -> tuple[str, ...]:
    """Texts and numbers as texts; anything else is left out."""
    return tuple(str(v) for v in values if isinstance(v, str | int | float) and not isinstance(v, bool) and str(v))
