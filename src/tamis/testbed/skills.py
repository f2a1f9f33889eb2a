"""The skills of the testbed: what is done to a list of words, and the many ways to ask for it.

A skill is the deed, not its wording: each is asked for in several ways made of the same few everyday words, and a
target asks in ways of its own. Every word of a target's request is used in the pool at least as often by some other
skill (the tests hold this for all skills).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skill:
    """One skill: `answer` maps the words of a list to the right answer; the rest are ways to ask for it."""

    answer: Callable[[Sequence[str]], str]
    pool_requests: tuple[str, ...]
    target_requests: tuple[str, ...]


def _join(words: Sequence[str]) -> str:
    return ", ".join(words)


SKILLS: dict[str, Skill] = {
    "reverse": Skill(
        lambda words: _join(words[::-1]),
        (
            "write the list with the last word first",
            "give the words in the other order",
            "start at the last word and go back to the first",
            "say it all again, back to front",
            "put the end first and the start at the end",
            "show the list from its end",
        ),
        (
            "go from the end of the list to the start",
            "write every word, with the last one at the start",
            "show the list in the other order, end first",
        ),
    ),
    "sort": Skill(
        lambda words: _join(sorted(words)),
        (
            "put the words in the order of their letters",
            "write the list from a to z",
            "show the words by the first letter",
            "give the list in letter order",
            "start with the word that has the first letter",
            "show the words as they come in a book of words",
        ),
        (
            "give every word in the order of the letters",
            "write the words by letter, from first to last",
            "go by the letters and put the list in order",
        ),
    ),
    "rotate": Skill(
        lambda words: _join([*words[1:], words[0]]),
        (
            "put the first word at the end",
            "start at the second word and put the first one last",
            "give the list with the first word after the others",
            "go on from the second word and end with the first",
            "turn the list by one word",
            "take the first word and put it after the last",
        ),
        (
            "write the list from the second word on, with the first one last",
            "go on from the first word to the others, end with the first",
            "show the words with the start of the list at the end",
        ),
    ),
    "skip": Skill(
        lambda words: _join(words[::2]),
        (
            "give every second word, start with the first",
            "write one word and leave out the next",
            "take the first word, not the next, and go on",
            "show every other word of the list",
            "count by two from the first word",
            "leave out each second word",
        ),
        (
            "write the first word, not the next, and go on to the end",
            "take each second one of the words from the start",
            "give one word and not the one after it",
        ),
    ),
    "double": Skill(
        lambda words: _join([f"{word} {word}" for word in words]),
        (
            "write every word two times",
            "give each word and then the same word",
            "put every word after itself",
            "show the list with every word next to itself",
            "say each one two times before the others",
            "take every word and the same one next to it",
        ),
        (
            "give each word and the same one after it",
            "show each word again and go on to the next",
            "write the list with each word next to the same word",
        ),
    ),
    "pair": Skill(
        lambda words: _join(["-".join(words[i : i + 2]) for i in range(0, len(words), 2)]),
        (
            "put the words together",
            "join each word and the next",
            "write the first word with the second and go on",
            "give the list in twos",
            "make one of every two words",
            "take two words at a time",
        ),
        (
            "put each word and the one after it together",
            "show the list two by two",
            "write every second word with the word before it",
        ),
    ),
    "capitals": Skill(
        lambda words: _join([word.upper() for word in words]),
        (
            "write the same list in big letters",
            "make every letter of the words big",
            "give each word in capitals",
            "show the words with every letter big",
            "say the same words loud, in capitals",
            "turn each letter to a big one",
        ),
        (
            "put every word of the list in large letters",
            "give the list with each letter a large one",
            "make the letters of the words large, in the same order",
        ),
    ),
    "initials": Skill(
        lambda words: _join([word[0] for word in words]),
        (
            "give the first letter of each word",
            "write the letter at the start of every word",
            "take one letter from each word, the first",
            "show the first letters, not the words",
            "make a list of the letters that come first",
            "leave out all but the start",
        ),
        (
            "write one letter of each word, the one at the start",
            "take the first letter of every one in the list",
            "show the letters that the words start with",
        ),
    ),
    "spell": Skill(
        lambda words: "-".join(words[0]),
        (
            "say the letters of the first word one by one",
            "spell the first word",
            "write the first word as single letters",
            "take the first word and show each letter",
            "give all letters of the word at the start",
            "make a list of the letters in the first word",
        ),
        (
            "give each letter of the first word of the list",
            "go letter by letter, only the word at the start",
            "show the first word, one letter and then the next",
        ),
    ),
    "number": Skill(
        lambda words: _join([f"{i} {word}" for i, word in enumerate(words, 1)]),
        (
            "put each word together with a number",
            "write the list with numbers",
            "give every word its number in the order",
            "show the words, each after a number",
            "number the words in order",
            "say one, two and so on before the words",
        ),
        (
            "put one before the first word, two before the second and go on",
            "write each word of the list after its place in the order",
            "show every word with its place",
        ),
    ),
}
"""The skills by name. Every one copies or respells the words of the list, so no answer brings words of its own."""
