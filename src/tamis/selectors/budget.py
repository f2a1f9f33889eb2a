"""How many examples to take, as the user writes it: `500`, `5%` or `200000tok`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tamis.errors import InputError


@dataclass(frozen=True, slots=True)
class Budget:
    """A number of examples, a share of the usable rows in percent (exact), or a number of supervised tokens."""

    kind: Literal["examples", "percent", "tokens"]
    value: int | Fraction

    def n_examples(self, n_usable: int) -> int | None:
        """How many of `n_usable` rows to take: all of them, where `value` examples are more; None for tokens.

        A share is rounded down, and is at least 1. For tokens rank all rows and apply `cut_to_tokens`.
        InputError if there is no usable row.
        """
        if n_usable < 1:
            raise InputError("expected at least one usable pool row, found none. See the rejected and excluded rows.")
        if self.kind == "tokens":
            return None
        if self.kind == "percent":
            return max(1, int(self.value * n_usable / 100))
        return min(int(self.value), n_usable)


def parse_budget(text: str | int) -> Budget:
    """Read a budget; InputError shows the three forms."""
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*(%|tok)?\s*", str(text), re.ASCII)
    number, unit = found.groups() if found else ("0", None)
    value = Fraction(number)  # exact: 5% of 100 is 5, not 5.000000000000001
    is_whole = "." not in number
    if unit == "%" and 0 < value <= 100:
        return Budget("percent", value)
    if unit != "%" and is_whole and value > 0 and not isinstance(text, bool):
        return Budget("tokens" if unit else "examples", int(number))
    raise InputError(
        f"expected a budget like 500 (examples), 5% (of the usable rows, up to 100%) or 200000tok (supervised tokens); "
        f"got {text!r}"
    )


def cut_to_tokens(n_tokens: Iterable[int], limit: int | Fraction) -> int:
    """How many picks the longest prefix has whose supervised tokens are at most `limit`; all of them, if all fit.

    `n_tokens` comes in pick order, and is read no further than the cut. InputError if not even the first pick fits.
    """
    n_picks = total = 0
    for count in n_tokens:
        total += count
        if total > limit:
            break
        n_picks += 1
    if n_picks == 0:
        raise InputError(
            f"expected a token budget that holds the first pick, which has {total} supervised tokens; "
            f"got {limit}. Raise it to {total}tok or more."
        )
    return n_picks
