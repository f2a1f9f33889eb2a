"""The first sentences of a selection's report, made of its numbers."""

from collections.abc import Mapping
from typing import Any

from tamis.errors import printable

_N_NAMES = 6


def headline(facts: Mapping[str, Any]) -> list[str]:
    """What was picked, how much of what and for what; and which source has most more than its share."""
    manifest, lengths = facts["manifest"], facts["lengths"]
    n_picked, n_usable = manifest["n_picked"], manifest["n_usable"]
    share = "all" if n_picked == n_usable else f"{100 * n_picked / n_usable:.3g}%"
    first = f"{_rows(n_picked)} ({share} of the usable ones; {lengths['total']:,} {lengths['unit']}) picked by "
    first += f"{manifest['method']} from a pool of {_rows(manifest['pool']['n_rows'])}"
    if manifest.get("target"):
        first += f" for {manifest['target']['n_rows']:,} target row" + "s" * (manifest["target"]["n_rows"] != 1)
        names = [f"{t['name']} ({_rows(t['n_picks'])} picked)" for t in facts["coverage"].get("targets", [])]
        if len(names) > 1:
            more = f" and {len(names) - _N_NAMES:,} more" if len(names) > _N_NAMES else ""
            first += f": {', '.join(names[:_N_NAMES])}{more}"
        elif "targets" not in facts["coverage"]:
            first += ", which the method does not look at, but for leaks"
    return [printable(first) + ".", *_over_represented(facts["sources"], n_picked, n_usable)]


def _over_represented(sources: list[Any], n_picked: int, n_usable: int) -> list[str]:
    if len(sources) < 2 or n_picked == n_usable:
        return []
    above = [line for line in sources if line["n_picked"] > line["high"]]
    if not above:
        return [f"None of the {len(sources):,} sources is picked more often than chance would have it."]
    line = max(above, key=lambda one: one["n_picked"] / one["n_pool"])
    ratio = (line["n_picked"] / n_picked) / (line["n_pool"] / n_usable)
    return [
        f"The most over-represented source is {printable(str(line['name']))}: {line['n_picked'] / n_picked:.1%} of the "
        f"picks, {line['n_pool'] / n_usable:.1%} of the pool, {ratio:.1f} times its share; random picks would have "
        f"{line['low']:,} to {line['high']:,} of its rows, these have {line['n_picked']:,}."
    ]


def _rows(n: int) -> str:
    return f"{n:,} row" + "s" * (n != 1)
