"""How an answer in text is scored against right ones: exact_match, numeric, f1. Each gives 0 to 1.

Each says what it compares in its docstring, so that two people who read it score alike.
"""

import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Sequence
from fractions import Fraction

from tamis.errors import InputError

GENERATED = ("exact_match", "numeric", "f1", "code")  # the model writes an answer, which is then scored

_MARKER = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»`*"
_NUMBER = (  # the length of what may be tried again is bounded, so that no text takes quadratic time
    r"(?<!\w)(?P<sign>-?)(?:[$€£]\s?)?(?P<minus>-?)"
    r"(?:(?P<digits>\d{1,3}(?:,\d{3}){1,40}(?!\d|,\d)|\d++)(?P<decimals>\.\d++)?|(?<!\.)(?P<bare>\.\d++))"
    r"(?:(?P<below>(?:\s?/\s?\d++)++)(?!\.\d))?"
)
_ANY_NUMBER = re.compile(_NUMBER)
# GSM8K's marker; "#### 1. Do this" and "#### Step 1" are headings
_HASHES = re.compile(rf"(?<!#)####(?!#)[^\w\n.#-]*(?:-[^\S\n]++)?(?>{_NUMBER})(?![.):][^\S\n]+[^\s\d])(?P<rest>[^\n]*)")
_BOXED = re.compile(r"\\boxed\{((?:[^{}\n]|\{[^{}\n]*\})*)")
_STATED = re.compile(r"\banswer(?:\s+is\b|\s*:)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|\.(?!\d)")
_CLAUSE_END = re.compile(r",\s|[;(\n]|\.(?!\d)")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")  # LaTeX's
_MAX_DIGITS = 100  # a model that repeats a digit writes no number
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts that are written without spaces between words: each character is a token
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿豈-﫿\U00020000-\U0003ffff฀-໿က-႟ក-៿]")


# ---- exact match -------------------------------------------------------------------------------------------------


def exact_match(output: str, references: Sequence[str]) -> float:
    """1 where the answer in the output is, normalised, one of the references, else 0.

    The answer is what follows the last "answer is" or "answer:" up to the end of that line, where the output has such
    words and something after them, else the whole output; of a reference likewise. Normalised: Unicode NFKC, case
    folded, white space as single spaces, without quotes, asterisks or periods at either end.
    """
    return float(_answer(output) in map(_answer, references))


def _answer(text: str) -> str:
    for found in reversed(list(_MARKER.finditer(text))):
        line = _normalised(text[found.end() :].partition("\n")[0])
        if line:
            return line
    return _normalised(text)


def _normalised(text: str) -> str:
    joined = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return joined.strip(_QUOTES + ". ")


# ---- numbers -----------------------------------------------------------------------------------------------------


def number(text: str) -> Fraction | None:
    """The number a text gives as its answer, or None.

    It is the one right after the first "####" (not in a heading such as "#### 1. Add" or "#### Step 1"), else the first
    in the last "\\boxed{…}" that has one, else the first in the sentence after the last "answer is" or "answer:" that
    has one, all on the marker's line, else the last in the text. Where an = follows the marked number in its clause
    ("the answer is 5 + 6 = 11"), the number after the last = counts.

    1,234 is a thousand (commas between groups of three), $ € £ and % are passed over (50% is 50), - and − right before
    the number or its currency are a sign unless a letter or digit stands before them ("- 5" is 5, but "#### - 5" is
    −5), 3/4 and \\frac{3}{4} are fractions, of 12/25/2020 the last part counts, 1.50 is 1.5. Not covered: 1e5, decimal
    commas, mixed numbers, \\frac12, more than 100 digits.
    """
    text = text.replace("−", "-").replace("–", "-").replace("{,}", ",")
    text = _FRACTION.sub(r"\1/\2", text)
    if found := _HASHES.search(text):
        return _value(_result(found, found["rest"]))
    boxed = [found[1] for found in _BOXED.finditer(text)]
    stated = [_SENTENCE_END.split(part, maxsplit=1)[0] for part in _STATED.split(text)[1:]]
    for stretch in (*reversed(boxed), *reversed(stated)):
        if found := _ANY_NUMBER.search(stretch):
            return _value(_result(found, stretch[found.end() :]))
    last = deque(_ANY_NUMBER.finditer(text), maxlen=1)
    return _value(last[0]) if last else None


def _result(found: re.Match[str], rest: str) -> re.Match[str]:
    """The number after the last = of the clause that a number begins, else that number."""
    _, equals, result = _CLAUSE_END.split(rest, maxsplit=1)[0].rpartition("=")
    return (_ANY_NUMBER.search(result) if equals else None) or found


def numeric(output: str, references: Sequence[str]) -> float:
    """1 where the output's number (see `number`) equals that of a reference exactly, else 0."""
    found = number(output)
    return float(found is not None and any(found == number(reference) for reference in references))


def _value(found: re.Match[str]) -> Fraction | None:
    whole = (found["digits"] or "").replace(",", "") + (found["decimals"] or found["bare"] or "")
    parts = [whole, *re.findall(r"\d+", found["below"] or "")]
    if max(map(len, parts)) > _MAX_DIGITS:
        return None
    below = int(parts[1]) if len(parts) == 2 else 1
    if below == 0:
        return None
    value = Fraction(parts[0] if len(parts) < 3 else parts[-1]) / below
    before = found[0][: found.start("digits" if found["digits"] else "bare") - found.start()]
    return -value if "-" in before and len(parts) < 3 else value


# ---- words -------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Tokens as SQuAD compares them: lower case, without punctuation and the articles a, an, the, parted by space.

    For other scripts than Latin (Lewis et al., MLQA): punctuation is Unicode's, and in scripts without spaces (Han,
    kana, Thai, Lao, Khmer, Burmese) each character is a token.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(" " if c in "\t\n" else c for c in text if not _is_punctuation(c))
    return _UNSPACED.sub(r" \g<0> ", _ARTICLES.sub(" ", kept)).split()


def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "P" or (category[0] == "S" and character < "\x80")


def f1(output: str, references: Sequence[str]) -> float:
    """The best over the references of 2·P·R / (P + R), where P and R are the shares of common words (SQuAD).

    Where output or reference has no word at all, 1 if neither has, else 0.
    """
    return max((_f1(words(output), words(reference)) for reference in references), default=0.0)


def _f1(output: list[str], reference: list[str]) -> float:
    if not output or not reference:
        return float(output == reference)
    n_common = sum((Counter(output) & Counter(reference)).values())
    return 2 * n_common / (len(output) + len(reference))


def check_references(task: str, references: Sequence[str]) -> None:
    """InputError for right answers that no answer can equal: numeric without a number."""
    if task == "numeric" and all(number(text) is None for text in references):
        raise InputError(f"no number in its reference {references[0][:40]!r}")


SCORERS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match, "numeric": numeric, "f1": f1}
