"""How an answer in text is scored against right ones: exact_match, numeric, f1. Each gives 0 to 1.

Each says what it compares in its docstring, so that two people who read it score alike.
"""

import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Sequence
from fractions import Fraction

GENERATED = ("exact_match", "numeric", "f1", "code")  # the model writes an answer, which is then scored

_MARKER = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»`*"
_NUMBER = (
    r"(?<!\w)(?P<sign>-?)\s?[$€£]?\s?(?P<minus>-?)"
    r"(?:(?P<digits>\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?P<decimals>\.\d+)?|(?P<bare>\.\d+))"
    r"(?:\s?/\s?(?P<below>\d+)(?!\s?/|\d|\.\d))?"
)
_ANY_NUMBER = re.compile(_NUMBER)
_MARKED = (  # of a text with several, the first "####" counts, as in GSM8K's own scoring, and the last of the others
    re.compile(r"####[^\S\n]*[^\d\n.$€£-]{0,20}?" + _NUMBER),
    re.compile(r"\\boxed\{[^\d\n}.$€£-]{0,20}?" + _NUMBER),
    re.compile(r"\banswer(?:\s+is\b|\s*:)[^\d\n.$€£-]{0,60}?" + _NUMBER, re.IGNORECASE),
)
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

    It is the one after the first "####", else in the last "\\boxed{…}", else after the last "answer is" or "answer:"
    (on the same line each), else the last in the text. 1,234 is a thousand (commas between groups of three), $ € £ and
    % are passed over (50% is 50), - and − before the number or its currency is a sign unless a letter or digit stands
    before it, 3/4 and \\frac{3}{4} are fractions, 1.50 is 1.5. Not covered: 1e5, decimal commas, mixed numbers, more
    than 100 digits.
    """
    text = _FRACTION.sub(r"\1/\2", text.replace("−", "-").replace("–", "-"))
    for place, marked in enumerate(_MARKED):
        if found := list(marked.finditer(text)):
            return _value(found[0 if place == 0 else -1])
    last = deque(_ANY_NUMBER.finditer(text), maxlen=1)
    return _value(last[0]) if last else None


def numeric(output: str, references: Sequence[str]) -> float:
    """1 where the output's number (see `number`) equals that of a reference exactly, else 0."""
    found = number(output)
    return float(found is not None and any(found == number(reference) for reference in references))


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found[0]) > _MAX_DIGITS:
        return None
    whole = (found["digits"] or "").replace(",", "") + (found["decimals"] or found["bare"] or "")
    below = int(found["below"]) if found["below"] else 1
    if below == 0:
        return None
    value = Fraction(whole) / below
    return -value if found["sign"] or found["minus"] else value


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


SCORERS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match, "numeric": numeric, "f1": f1}
