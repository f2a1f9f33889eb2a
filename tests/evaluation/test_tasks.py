"""Answers with known scores."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.evaluation.tasks import exact_match, f1, number, numeric, words

NUMBERS = [
    ("She has 3 + 4 = 7 apples.\n#### 7", 7),
    ("#### 1,234", 1234),
    ("#### $1,234,567.50", Fraction("1234567.5")),
    ("#### -10", -10),
    ("#### −10", -10),
    ("#### $-10", -10),
    ("#### -$10", -10),
    ("#### 50%", 50),
    ("#### 7\n\nQuestion: And then?\n#### 9", 7),  # a model that goes on with a question of its own
    ("#### 3/4", Fraction(3, 4)),
    ("#### .5", Fraction(1, 2)),
    ("#### about 12 kg", 12),
    ("####\nThere were 5.", 5),
    ("The answer is 12.", 12),
    ("The answer is $12.50.", Fraction("12.5")),
    ("the answer is: 1,000", 1000),
    ("The answer is 3. No, the answer is 4.", 4),
    ("Answer: 8", 8),
    ("The answer is 5 of the 20 boxes.", 5),
    (r"So \boxed{42} of 100", 42),
    ("First 5, then 6, so 11 in all.", 11),
    ("He pays 5 dollars and gets 2", 2),
    ("from 3-5", 5),
    ("1, 2, 3", 3),
    ("12,34", 34),  # no groups of three: two numbers
    ("x2 is 9 and y is 8x", 8),
    ("10/0", None),
    ("none at all", None),
    ("", None),
    ("1" * 500, None),
    ("５０.５", Fraction("50.5")),
    ("５０", 50),
    ("#### 5²", 5),
    (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
    (r"\boxed{-\dfrac{1}{2}}", Fraction(-1, 2)),
    ("version 1.2.3", 3),
    ("The answer is 3,000, since 3 * 1,000.", 3000),
    ("#### 1,234, done", 1234),
    ("It costs 2,000,", 2000),
    ("Total - 18", 18),
    ("- 18 eggs", 18),
    ("---\n18", 18),
    ("Result: 10 - 4", 4),
    ("5 - -3", -3),
    ("#### - 5", -5),
    ("#### Step 1: add\n3 + 4 = 7\n\n#### Step 2: double\n14\nThe answer is 14. Not 3", 14),
    ("#### 1. Start\nAnswer: 14\n#### 2. End", 14),
    ("##### 1\nAnswer: 14\n##### 2", 14),
    ("#### 1. Start\n#### 18", 18),
    ("The answer is 5 + 6 = 11", 11),
    ("Answer: 3 apples + 4 apples = 7", 7),
    (r"\boxed{5 + 6 = 11}", 11),
    ("The answer is 5. This is because 10 = 2 * 5.", 5),
    ("The answer is 5, since 10 = 2 * 5", 5),
    ("Answer: 5 (10 = 2 * 5)", 5),
    ("12/25/2020", 2020),
    ("3/4/5", 5),
    (r"\boxed{1{,}000}", 1000),
    (r"\boxed{\text{5 apples}} of 9", 5),
    (r"\boxed{18}, so \boxed{}", 18),
    ("The answer is" + " very" * 40 + " 42 of 50", 42),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_number(text: str, value: Fraction | int | None) -> None:
    assert number(text) == value


def test_a_long_text_takes_no_quadratic_time() -> None:
    """Quadratic, each of these took minutes."""
    for part in ("111,", "1", "1/", "answer is ", "#### ", "\\boxed{", "-", " ", "#", "1,111", "$ "):
        found = number(part * 100_000)
        assert found is None or found in (1, 111, 1111), part


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        ("so 15 gallons", "8*30 = 240\n240/16 = 15\n#### 15", 1),
        ("#### 15.0", "15", 1),
        ("#### 15.01", "15", 0),
        ("1,500", "#### 1500", 1),
        ("-15", "15", 0),
        ("0.75", "3/4", 1),
        ("no idea", "15", 0),
        ("50%", "50", 1),
    ],
)
def test_numeric(output: str, reference: str, score: float) -> None:
    assert numeric(output, [reference]) == score
    assert numeric(output, ["999", reference]) == score


@pytest.mark.parametrize(
    ("output", "references", "score"),
    [
        ("False", ["False"], 1),
        (" false.\n", ["False"], 1),
        ("**False**", ["False"], 1),
        ("“No”", ["no"], 1),
        ("Let us think. It is so. So the answer is False.", ["False"], 1),
        ("The answer is True. So the answer is (B).\nQ: next", ["(B)"], 1),
        ("Answer: (B)", ["So the answer is (B)."], 1),
        ("The answer is", ["The answer is"], 1),  # nothing follows: the whole is compared
        ("False, I think", ["False"], 0),
        ("(B", ["(B)"], 0),
        ("B", ["(B)"], 0),
        ("a  b\tc", ["a b c"], 1),
        ("Ⅷ", ["viii"], 1),
        ("x", ["y", "x"], 1),
        ("x", [], 0),
        (") } >", [") } >"], 1),
        ("", ["x"], 0),
    ],
)
def test_exact_match(output: str, references: list[str], score: float) -> None:
    assert exact_match(output, references) == score


@pytest.mark.parametrize(
    ("output", "references", "score"),
    [
        ("The Eiffel Tower", ["eiffel tower!"], 1),
        ("Paris, France", ["Paris"], 2 / 3),
        ("in Paris", ["London", "Paris"], 2 / 3),
        ("Paris Paris", ["Paris"], 2 / 3),  # a word counts as often as both have it
        ("Rome", ["Paris"], 0),
        ("", ["Paris"], 0),
        ("the", ["a"], 1),  # no word on either side
        ("orang-orang Viking", ["orang-orang Viking", "orang-orang Viking dari Eropa Utara"], 1),
        ("بطولتين.", ["بطولتين"], 1),
        ("అలి గౌహర్", ["గౌహర్"], 2 / 3),
        ("東京都", ["東京"], 4 / 5),
        ("กขค", ["กข"], 4 / 5),
        ("¿Qué?", ["qué"], 1),
        ("1869年", ["1869"], 2 / 3),
    ],
)
def test_f1(output: str, references: list[str], score: float) -> None:
    assert f1(output, references) == pytest.approx(score)


def test_words_of_latin_text_are_those_of_squad() -> None:
    # Normalised by the official SQuAD 1.1 evaluation: lower, remove punctuation, remove articles, split
    assert words("The U.S.A. don't, a  well-known\n(an) e.g. $5") == ["usa", "dont", "wellknown", "eg", "5"]
    assert words("theatre panther an") == ["theatre", "panther"]


@given(st.text(), st.text())
def test_any_text_has_a_score(output: str, reference: str) -> None:
    for score in (exact_match, numeric, f1):
        assert 0 <= score(output, [reference]) <= 1
    assert exact_match(output, [output]) == 1
    assert f1(output, [output]) == 1
