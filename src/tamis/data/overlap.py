"""Leaks: pool rows that give away a target or evaluation row."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from jaxtyping import Int64, UInt64

from tamis.data.example import Example

WINDOW = 13  # words
_QUESTION = range(6, 13)  # words of a question that counts when found whole
_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Leak:
    """A pool row, by position, and the target or evaluation row that it shares `words` with: its first such window."""

    position: int
    example: Example
    words: str


def find_leaks(pool: Iterable[Example], protected: Sequence[Example]) -> list[Leak]:
    r"""The pool rows that share a window with exactly one protected row, in pool order; at most one leak each.

    A window is 13 consecutive words (`\w+`, lower-cased) of all turns of a row, one after the other; also the whole
    question (the user turns) of a protected row, if it has 6 to 12 words. Windows found in two or more protected rows
    are template and do not count. Protected rows of equal id are one row.

    The pool is walked once, in blocks. Words that no protected row has break windows; the others are numbered, windows
    hashed and looked up together; what is found is compared word by word, so a hash never decides.
    """
    owners = _windows(list({example.id: example for example in protected}.values()))
    if not owners:
        return []
    numbers = {word: n for n, word in enumerate(sorted({word for window in owners for word in window}), 1)}
    lengths = {len(window) for window in owners}
    hashes = {
        length: _hashes(np.array([_numbered(w, numbers) for w in owners if len(w) == length])) for length in lengths
    }
    leaks = []
    rows = enumerate(pool)
    while block := list(islice(rows, _BLOCK_ROWS)):
        words = [_words(example) for _, example in block]
        for index, window in _first_windows(words, numbers, hashes, owners):
            leaks.append(Leak(block[index][0], owners[window], " ".join(window)))
    return leaks


def _windows(protected: Sequence[Example]) -> dict[tuple[str, ...], Example]:
    """The one row that has each window, without the windows that several have."""
    owners: dict[tuple[str, ...], Example | None] = {}
    for example in protected:
        words = _words(example)
        windows = {tuple(words[start : start + WINDOW]) for start in range(len(words) - WINDOW + 1)}
        question = _WORD.findall("\n".join(m.content for m in example.messages if m.role == "user").lower())
        if len(question) in _QUESTION:
            windows.add(tuple(question))
        for window in windows:
            owners[window] = None if window in owners else example
    return {window: example for window, example in owners.items() if example is not None}


def _first_windows(
    rows: Sequence[Sequence[str]],
    numbers: Mapping[str, int],
    hashes: Mapping[int, np.ndarray],
    owners: Mapping[tuple[str, ...], Example],
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row, its first window), in the order of rows, for the rows that have one."""
    starts = np.cumsum([0, *(len(words) + 1 for words in rows)])  # a 0 behind each row ends its windows
    in_order: list[int] = []
    for words in rows:
        in_order += map(numbers.get, words, repeat(0))
        in_order.append(0)
    stream = np.array(in_order, np.int64)
    next_break = np.flatnonzero(stream == 0)
    run = next_break[np.searchsorted(next_break, np.arange(len(stream)))] - np.arange(len(stream))
    hits = []
    for length, known in hashes.items():
        begins = np.flatnonzero(run >= length)
        windows = np.stack([stream[begins + k] for k in range(length)], axis=1)
        hits += [(begin, length) for begin in begins[np.isin(_hashes(windows), known)].tolist()]
    found: set[int] = set()
    for begin, length in sorted(hits):
        row = int(np.searchsorted(starts, begin, side="right")) - 1
        window = tuple(rows[row][begin - starts[row] : begin - starts[row] + length])
        if row not in found and window in owners:
            found.add(row)
            yield row, window


def _numbered(words: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    return [numbers.get(word, 0) for word in words]


def _hashes(windows: Int64[np.ndarray, "window word"]) -> UInt64[np.ndarray, " window"]:
    """One number for each window, the same for equal windows."""
    total = np.zeros(len(windows), np.uint64)
    for column in windows.T:
        total = (total ^ column.astype(np.uint64)) * _MULTIPLIER
        total ^= total >> np.uint64(29)
    return total


def _words(example: Example) -> list[str]:
    return _WORD.findall("\n".join(message.content for message in example.messages).lower())
