"""Figures of a selection's report: what they show, read back from the SVG; that names stay names."""

import itertools
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from looking import example, looked_at

from tamis.data.pool import Pool
from tamis.report.facts import selection_facts
from tamis.report.figures import as_svg
from tamis.report.selection_figures import N_PANELS, selection_figures

POOL = [example(answer="word " * (k % 50), row=k) for k in range(300)]


def figures(n_targets: int, n_rows: int, name: str = "target") -> dict[str, Any]:
    """Of picks by `n_targets` targets of `n_rows` rows each."""
    targets = [example(row=1000 + k) for k in range(n_targets * n_rows)]
    values = np.random.default_rng(0).random((len(targets), len(POOL)), np.float32)
    one = looked_at(
        POOL,
        list(range(2 * n_targets)),
        targets=Pool.of(targets),
        values=values,
        selector="round_robin",
        parts=[(f"{name}{k}", slice(k * n_rows, (k + 1) * n_rows)) for k in range(n_targets)],
        rankings=[k // 2 for k in range(2 * n_targets)],
        takers=[(k // 2) * n_rows for k in range(2 * n_targets)],
        ranked_by="$x^2$ <b>",
    )
    return selection_figures(selection_facts(one, POOL[: 2 * n_targets], None, 0))


def texts(figure: Any) -> list[str]:
    return [node.text or "" for node in ET.fromstring(as_svg(figure)).iter("{http://www.w3.org/2000/svg}text")]


def test_names_are_shown_as_they_are() -> None:
    drawn = figures(2, 3, "<i>$a^b$\x1b\u202e")
    assert {"<i>$a^b$\\x1b\\u202e0", "<i>$a^b$\\x1b\\u202e1"} <= set(texts(drawn["scores"]))
    shown = texts(drawn["coverage"])
    assert "$x^2$ <b>" in shown
    assert sum(text.startswith("<i>$a^b$") for text in shown) == 2


@pytest.mark.parametrize(("n_targets", "n_rows"), [(1, 1), (1, 700), (3, 4), (9, 2)])
def test_few_and_many_targets_and_rows(n_targets: int, n_rows: int) -> None:
    drawn = figures(n_targets, n_rows)
    assert len(drawn["scores"].axes) == min(n_targets, N_PANELS)
    above, below = drawn["coverage"].axes
    [bars] = above.patches
    assert bars.get_data().values.sum() == 2 * n_targets
    assert {len(points.get_offsets()) for points in below.collections} == {n_targets * n_rows}
    assert any("lowest pick" in text for text in texts(drawn["scores"]))


def test_the_shares_of_lengths_sum_to_one() -> None:
    [axis] = figures(1, 2)["lengths"].axes
    for stairs in axis.patches:
        assert stairs.get_data().values.sum() == pytest.approx(1)


@pytest.mark.parametrize("longest", [9, 90, 900, 9_000, 90_000, 9_000_000])
def test_numbers_of_the_length_axis_have_room_and_none_is_zero(longest: int) -> None:
    rows = [example(answer="x" * length, row=length) for length in (1, longest)]
    figure = selection_figures(selection_facts(looked_at(rows, [0]), rows[:1], None, 0))["lengths"]
    shown = texts(figure)
    assert "0" not in shown
    assert "1" in shown
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    labels = [tick.label1 for tick in figure.axes[0].xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = sorted((label.get_window_extent() for label in labels if label.get_text()), key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(left.x1 + 5 < right.x0 for left, right in itertools.pairwise(boxes))


def test_few_picks_of_many_rows_can_be_seen() -> None:
    values = np.linspace(0, 1, 300, dtype=np.float32)[None] ** 8
    one = looked_at(POOL, [299], values=values, selector="top_k")
    [axis] = selection_figures(selection_facts(one, POOL[299:], None, 0))["scores"].axes
    assert axis.get_yscale() == "log"
