"""Leaks: each clause of the rule, and the rule transcribed."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data import overlap
from tamis.data.example import Example, Message
from tamis.data.overlap import find_leaks


def row(*turns: str) -> Example:
    roles = ("user", "assistant")
    return Example.of([Message(roles[k % 2], text) for k, text in enumerate(turns)], source="made up")


def words(first: int, n: int) -> str:
    return " ".join(f"w{k}" for k in range(first, first + n))


@pytest.mark.parametrize(("shared", "is_leak"), [(13, True), (12, False), (40, True)])
def test_thirteen_words_in_a_row(shared: int, is_leak: bool) -> None:
    test_row = row(words(0, 60), "answer")
    pool = [row("other " + words(5, shared) + " text", "x"), row("nothing of it", "y")]
    assert [leak.position for leak in find_leaks(pool, [test_row])] == ([0] if is_leak else [])


def test_case_and_punctuation_do_not_hide_a_leak_and_turns_do_not_either() -> None:
    test_row = row("Janet's ducks lay 16 eggs per day; she eats three", "for breakfast every morning.")
    pool = [row("JANET S DUCKS: lay 16, eggs per day!", "She eats (three) for — breakfast. Every?")]
    (leak,) = find_leaks(pool, [test_row])
    assert (leak.position, leak.example) == (0, test_row)
    assert leak.words == "janet s ducks lay 16 eggs per day she eats three"  # the whole question, of 11 words


def test_words_that_two_rows_share_are_template() -> None:
    template = words(100, 20)
    rows = [row(f"{template} {words(0, 20)}", "x"), row(f"{template} {words(40, 20)}", "y")]
    assert find_leaks([row(template, "a")], rows) == []
    assert [leak.example for leak in find_leaks([row(template + " " + words(40, 20), "a")], rows)] == [rows[1]]


def test_the_same_row_in_two_files_is_one_row() -> None:
    test_row = row(words(0, 20), "answer")
    assert len(find_leaks([row(words(0, 20), "other")], [test_row, test_row])) == 1


@pytest.mark.parametrize(("n_words", "is_leak"), [(5, False), (6, True), (12, True)])
def test_a_short_question_counts_when_found_whole(n_words: int, is_leak: bool) -> None:
    question = words(0, n_words)
    assert bool(find_leaks([row(f"please: {question}?", "b")], [row(question, "short answer")])) == is_leak
    assert find_leaks([row(words(1, n_words), "b")], [row(question, "short answer")]) == []
    twice = [row(question, "one answer"), row(question, "another answer")]
    assert find_leaks([row(question, "b")], twice) == []


def test_a_window_does_not_reach_over_the_end_of_a_row() -> None:
    assert find_leaks([row(words(0, 7)), row(words(7, 7))], [row(words(0, 14))]) == []


def test_nothing_to_protect_and_empty_rows() -> None:
    assert find_leaks([row("a"), row("")], []) == []
    assert find_leaks([row(""), row("", "")], [row(words(0, 30))]) == []


def transcribed(pool: list[Example], protected: list[Example]) -> list[tuple[int, str]]:
    def split(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    windows: dict[str, dict[str, tuple[str, ...]]] = {}
    for example in protected:
        text = split("\n".join(m.content for m in example.messages))
        own = {tuple(text[k : k + 13]) for k in range(len(text) - 12)}
        question = split("\n".join(m.content for m in example.messages if m.role == "user"))
        if 6 <= len(question) <= 12:
            own.add(tuple(question))
        windows[example.id] = own
    every = [window for own in windows.values() for window in own]
    unique = {window for window in every if every.count(window) == 1}
    leaks = []
    for position, example in enumerate(pool):
        text = split("\n".join(m.content for m in example.messages))
        found = [
            (start, n)
            for start in range(len(text))
            for n in range(6, 14)
            if len(text) - start >= n and tuple(text[start : start + n]) in unique
        ]
        if found:
            start, n = min(found)
            leaks.append((position, " ".join(text[start : start + n])))
    return leaks


texts = st.lists(st.sampled_from("abc"), max_size=30).map(" ".join)


@pytest.mark.parametrize("multiplier", [overlap._MULTIPLIER, np.uint64(0)])  # with 0 every window has the same hash
@settings(deadline=None)
@given(
    pool=st.lists(st.tuples(texts, texts), max_size=8),
    protected=st.lists(st.tuples(texts, texts), max_size=4),
    copied=st.integers(0, 7),
    block=st.integers(1, 5),
)
def test_follows_the_rule(multiplier, pool, protected, copied: int, block: int) -> None:
    rows = [row(*turns) for turns in pool]
    tests = [row(*turns) for turns in protected]
    if rows and tests:
        rows[copied % len(rows)] = row("x " + tests[0].messages[0].content, tests[0].messages[1].content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_MULTIPLIER", multiplier)
        patch.setattr(overlap, "_BLOCK_ROWS", block)
        found = [(leak.position, leak.words) for leak in find_leaks(rows, tests)]
    assert found == transcribed(rows, tests)
