"""A study's page and its files, from made-up tables; and `tamis report` as its user meets it."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made import EVIL, RHO, made_rows, made_study, made_tables
from markupsafe import Markup

from tamis.errors import InputError
from tamis.study import tables
from tamis.study.page import HOW_TO_READ, write_foreign_report, write_report

Cli = Callable[..., Any]
SECTIONS = [
    "Against random picks",
    "What each budget reached",
    "Mean rank over targets",
    "At equal supervised tokens",
    "Does loss grow with distance?",
    "Which distance do selectors reach?",
    "What it costs, and gives",
    "What was picked, by source",
    "Picked examples beside their nearest target",
    "Where this is from",
]


class Page(HTMLParser):
    """Headings, tags, links and text of a page; text of its SVGs apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self._in_heading = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_heading = tag == "h2"
        self.links += [str(value) for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_heading:
            self.headings.append(data)
            self._in_heading = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study with its report."""
    folder = tmp_path_factory.mktemp("study")
    tables.write(folder, made_study())
    write_report(folder)
    return folder


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but in no file: three formats of each take a second."""

    def save(figure: Any, folder: Path, stem: str) -> Markup:
        (folder / f"{stem}.svg").write_text("")
        return Markup("<svg></svg>")

    monkeypatch.setattr("tamis.study.page.save_figure", save)


def test_every_section_is_there(folder: Path) -> None:
    page = Page(folder / "report.html")
    assert page.headings == SECTIONS
    assert HOW_TO_READ in page.text
    assert "on 1 of 2 targets less beats random at every budget (t1)" in page.text
    assert "no difference shown" in page.text


def test_nothing_from_data_becomes_markup_or_formula(folder: Path) -> None:
    page = Page(folder / "report.html")
    assert "script" not in page.tags
    assert not page.tags & {"img", "link", "iframe", "object"}
    shown = EVIL.replace("\x1b", "\\x1b")
    assert page.text.count(shown) >= 4  # in the title, the settings, and both columns of an example
    assert "\x1b" not in page.text


def test_names_from_data_in_figures(tmp_path: Path) -> None:
    results, examples = made_rows()
    for row in (*results, *examples):
        row["method"] = row["method"].replace("less", EVIL)
        row["target"] = row["target"].replace("t1", "<b>$t_1$</b>")
        row["experiment"] = row["experiment"].replace("quantile", "quantile:../../a b")
    tables.write(tmp_path, made_study(results=results, examples=examples, costs=[], composition=[]))
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert not page.tags & {"script", "b"}
    assert "<b>$t_1$</b>" in page.text
    assert (tmp_path / "figures/bins_target_loss__a_b.svg").exists()


def test_links_lead_to_files_beside_the_page(folder: Path) -> None:
    links = [link for link in Page(folder / "report.html").links if not link.startswith("#")]
    assert len(links) > 30
    for link in links:
        assert (folder / link).is_file(), link
    stems = {path.stem for path in (folder / "figures").iterdir()}
    for stem in stems:
        for end in ("svg", "png", "pdf"):
            assert (folder / "figures" / f"{stem}.{end}").stat().st_size > 1000
    assert (folder / "figures/ranks.pdf").read_bytes().startswith(b"%PDF")
    text = (folder / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[\w./-]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "http://www.w3.org/2000/xlink"}


def test_tables_hold_what_the_page_shows(folder: Path) -> None:
    names = {path.stem for path in (folder / "tables").iterdir()}
    assert names == {
        "means", "differences", "ranks", "equal_tokens", "bins", "correlations", "distance_ranks",
        "distance_correlations", "cost_benefit", "composition",
    }  # fmt: skip
    means = pd.read_csv(folder / "tables/means.csv")
    one = means[(means["method"] == "less") & (means["target"] == "t1") & (means["budget"] == "5%")].iloc[0]
    assert f"{one['test_loss']:.3f}" in Page(folder / "report.html").text
    assert one["test_loss_low"] < one["test_loss"] < one["test_loss_high"]


def test_the_same_study_gives_the_same_bytes(folder: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    before = contents(folder)
    lines = write_report(folder)
    assert contents(folder) == before
    assert lines[0].startswith("Test loss: on 1 of 2 targets")


@pytest.mark.usefixtures("unsaved")
def test_figures_that_no_longer_belong_are_gone(tmp_path: Path) -> None:
    tables.write(tmp_path, made_study())
    write_report(tmp_path)
    tables.write(tmp_path, made_study(results=[row for row in made_rows()[0] if row["experiment"] == "budget"]))
    write_report(tmp_path)
    assert not list((tmp_path / "figures").glob("bins*"))
    assert "Does loss grow with distance?" not in Page(tmp_path / "report.html").headings


@pytest.mark.parametrize(
    ("kept", "headings"),
    [
        (lambda row: row["experiment"] == "quantile", ["Does loss grow with distance?"]),
        (lambda row: row["method"] in ("less", "rds"), ["What each budget reached", "Mean rank over targets"]),
        (lambda row: row.get("budget") == "5%" and row["seed"] == 0, ["Against random picks"]),
        (lambda _: False, ["Where this is from"]),
    ],
)
@pytest.mark.usefixtures("unsaved")
def test_pieces_of_a_study_have_a_page(tmp_path: Path, kept: Callable[[Any], bool], headings: list[str]) -> None:
    results, examples = (list(filter(kept, rows)) for rows in made_rows())
    made = made_study(results=results, examples=examples, costs=[], composition=[], shown=[])
    tables.write(tmp_path, made)
    lines = write_report(tmp_path)
    assert set(headings) <= set(Page(tmp_path / "report.html").headings)
    if not results:
        assert lines[0] == "No cell of this study is finished."


@pytest.mark.usefixtures("unsaved")
def test_a_partial_study_is_marked(tmp_path: Path) -> None:
    tables.write(tmp_path, made_study(manifest={"n_pending": 5}))
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r'<li class="partial">Partial: \d+ of \d+ cells are finished', text)


# ---- published tables ----------------------------------------------------------------------------------------------


def test_published_tables_get_the_same_page(tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    source = made_tables(tmp_path / "t")
    before = contents(source)
    write_foreign_report(source, tmp_path / "out")
    assert contents(source) == before
    page = Page(tmp_path / "out/report.html")
    assert set(SECTIONS[:3]) <= set(page.headings)
    rho = pd.read_csv(tmp_path / "out/tables/correlations.csv")
    assert {row.series: round(row.rho, 12) for row in rho.itertuples()} == RHO
    made = contents(tmp_path / "out")
    write_report(tmp_path / "out")  # a study from now on
    assert (tmp_path / "out/report.html").read_bytes() == made["report.html"]


@pytest.mark.usefixtures("unsaved")
def test_a_report_replaces_its_own_and_nothing_else(tmp_path: Path) -> None:
    source = made_tables(tmp_path / "t")
    write_foreign_report(source, tmp_path / "out")
    (tmp_path / "out/report.html").unlink()
    write_foreign_report(source, tmp_path / "out")
    assert (tmp_path / "out/report.html").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(InputError, match="choose another --out"):
        write_foreign_report(source, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_a_report_is_not_written_among_the_tables_it_is_on(tmp_path: Path) -> None:
    source = made_tables(tmp_path / "t")
    for out in (source, source / "report"):
        with pytest.raises(InputError, match="not written among the tables"):
            write_foreign_report(source, out)


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unsaved")
def test_report_of_a_study(tmp_path: Path, cli: Cli) -> None:
    tables.write(tmp_path / "s", made_study())
    said = cli("report", tmp_path / "s").stdout
    assert "on 1 of 2 targets less beats random" in said
    assert "\x1b" not in said
    cli("report", tmp_path / "s", "--out", tmp_path / "other")
    assert (tmp_path / "other/report.html").read_bytes() == (tmp_path / "s/report.html").read_bytes()


@pytest.mark.usefixtures("unsaved")
def test_report_of_published_tables(tmp_path: Path, cli: Cli) -> None:
    made_tables(tmp_path / "t")
    assert f"written to {tmp_path / 't-report'}" in cli("report", tmp_path / "t").stdout
    assert (tmp_path / "t-report/report.html").exists()


def test_report_of_a_selection(finished: Path, tmp_path: Path, cli: Cli) -> None:
    import shutil

    shutil.copytree(finished / "out", tmp_path / "out")
    before = (tmp_path / "out/report.html").read_bytes()
    (tmp_path / "out/report.html").unlink()
    cli("report", tmp_path / "out")
    assert (tmp_path / "out/report.html").read_bytes() == before
    assert "leave out --out" in cli("report", tmp_path / "out", "--out", tmp_path / "x", code=2).stderr


@pytest.mark.usefixtures("unsaved")
def test_report_of_something_else(tmp_path: Path, cli: Cli) -> None:
    assert "found nothing" in cli("report", tmp_path / "no", code=2).stderr
    (tmp_path / "file").write_text("x")
    assert "found a file" in cli("report", tmp_path / "file", code=2).stderr
    said = cli("report", tmp_path, code=2).stderr
    assert "expected a study (results.csv and study.json), a selection (picks.parquet)" in said
    assert "found file" in said
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    assert "found a, b" in cli("report", tmp_path, code=2).stderr
