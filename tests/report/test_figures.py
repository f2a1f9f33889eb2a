"""Figures: what they show, as text that can be read back from the SVG; and that no name becomes markup or a formula."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tamis.report.figures import agreement_figure, as_svg, inclusion_figure, save_figure

EVIL = "<script>&\"'$x^2$\x1b[1m"


def texts(svg: str) -> list[str]:
    """The words in an SVG, which must be well-formed XML."""
    return [node.text or "" for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def heat_maps(names: list[str], rho: float = np.nan) -> str:
    n = len(names)
    return as_svg(agreement_figure(names, np.full((n, n), 0.37), np.full((n, n), rho)))


def test_every_pair_of_selections_has_its_numbers() -> None:
    shown = texts(heat_maps(["one", "two", "three"], -0.204))
    assert shown.count(".37") == shown.count("−.20") == 6
    assert shown.count("one") == 3  # the second panel's rows are those of the first
    assert any("Spearman" in text for text in shown)


def test_what_is_not_known_is_a_dash_or_leaves_its_panel_out() -> None:
    jaccard, rho = np.full((2, 3, 3), 0.5)
    rho[0] = rho[:, 0] = np.nan
    assert texts(as_svg(agreement_figure(["a", "b", "c"], jaccard, rho))).count("–") == 4
    assert not any("Spearman" in text for text in texts(heat_maps(["a", "b"])))


def test_names_are_shown_as_they_are() -> None:
    svg = heat_maps([EVIL, "b"])
    assert texts(svg).count("<script>&\"'$x^2$\\x1b[1m") == 2
    assert "<script" not in svg
    assert "\x1b" not in svg


def test_long_names_are_cut_in_the_middle() -> None:
    shown = texts(heat_maps(["a" * 30 + "z" * 30, "b"]))
    assert any(text.startswith("aaa") and "…" in text and text.endswith("zzz") and len(text) < 30 for text in shown)


@pytest.mark.parametrize("n", [2, 20])
def test_two_and_twenty_selections_can_be_drawn(n: int, tmp_path: Path) -> None:
    names = [f"run-{k}" for k in range(n)]
    jaccard = np.random.default_rng(0).random((n, n))
    save_figure(agreement_figure(names, jaccard, 2 * jaccard - 1), tmp_path, "a")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    shown = texts((tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert set(names) <= set(shown)


def test_an_svg_stands_alone_and_is_the_same_each_time() -> None:
    svg = heat_maps(["a", "名前"], 0.5)
    assert svg.startswith("<svg")
    assert "metadata" not in svg
    assert {part.split('"')[0] for part in svg.split("http")[1:]} == {
        "://www.w3.org/2000/svg",
        "://www.w3.org/1999/xlink",
    }
    assert svg == heat_maps(["a", "名前"], 0.5)


@pytest.mark.parametrize("n_others", [0, 1, 500])
def test_inclusion_of_few_or_many_rows(n_others: int) -> None:
    rng = np.random.default_rng(0)
    figure = inclusion_figure(np.ones(3, np.float32), rng.random(n_others, np.float32) * (n_others > 1), (0.5, 0.9))
    left, right = figure.axes
    assert {"firm from here up", "doubtful below", "picks (3)", "share of draws"} <= set(texts(as_svg(figure)))
    assert sum(patch.get_height() for patch in right.containers[0]) == 3
    assert len(left.lines) == (5 if n_others > 1 else 4)  # a curve each, the border and two thresholds
