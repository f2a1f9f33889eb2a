from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import InputError
from tamis.selectors import Budget, cut_to_tokens, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500", Budget("examples", 500)),
        (500, Budget("examples", 500)),
        (" 500 ", Budget("examples", 500)),
        ("5%", Budget("percent", Fraction(5))),
        ("0.1%", Budget("percent", Fraction(1, 10))),
        ("100%", Budget("percent", Fraction(100))),
        ("200000tok", Budget("tokens", 200000)),
    ],
)
def test_reads_the_three_forms(text: str | int, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "0", 0, -5, "-5", "0%", "100.1%", "5 percent", "1.5", "1.5tok", "0tok", "tok", "%", "1e3", "٥", True]
)
def test_refuses_other_strings_and_shows_the_three_forms(text: str | int) -> None:
    with pytest.raises(InputError, match=rf"500 .*5% .*200000tok .*got {text!r}"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "n_usable", "n_examples"),
    [
        ("5%", 100, 5),
        ("5%", 119, 5),
        ("5%", 120, 6),
        ("5%", 3, 1),
        ("0.1%", 1000, 1),
        ("0.1%", 3000, 3),
        ("0.7%", 1000, 7),
        ("100%", 7, 7),
        ("500", 501, 500),
        ("500", 20, 20),
        ("200000tok", 20, None),
    ],
)
def test_number_of_examples(text: str, n_usable: int, n_examples: int | None) -> None:
    assert parse_budget(text).n_examples(n_usable) == n_examples


@settings(deadline=None)
@given(hundredths=st.integers(1, 10_000), n_usable=st.integers(1, 10**7))
def test_a_share_is_the_floor_of_the_exact_decimal(hundredths: int, n_usable: int) -> None:
    text = f"{Decimal(hundredths) / 100:f}%"
    assert parse_budget(text).n_examples(n_usable) == max(1, hundredths * n_usable // 10_000)


@pytest.mark.parametrize("text", ["5", "5%", "5tok"])
def test_an_empty_pool_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="at least one usable"):
        parse_budget(text).n_examples(0)


@pytest.mark.parametrize(("limit", "n_picks"), [(3, 1), (6, 1), (7, 3), (8, 3), (9, 4), (100, 4)])
def test_cuts_to_the_longest_prefix_that_fits(limit: int, n_picks: int) -> None:
    assert cut_to_tokens([3, 4, 0, 2], limit) == n_picks


def test_reads_token_counts_no_further_than_the_cut() -> None:
    counts = iter([3, 4, 5, 6])
    assert cut_to_tokens(counts, 4) == 1
    assert list(counts) == [5, 6]


def test_an_empty_cut_is_an_error() -> None:
    with pytest.raises(InputError, match=r"has 30 supervised tokens; got 29\. Raise it to 30tok"):
        cut_to_tokens([30, 1], 29)
