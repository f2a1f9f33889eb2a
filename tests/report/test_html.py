"""report.html: what it says, and that nothing in the data becomes markup."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from looking import compared, example, looked_at, selected

from tamis.data.example import Example, Message
from tamis.data.selection import Selection
from tamis.errors import InputError
from tamis.report.facts import N_ROWS
from tamis.report.html import render_table, report_facts, rerender, write_report

EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&{{ 7 * 7 }}"
POOL = [example("s" if k % 4 else "u", row=k, row_id=f"r{k}") for k in range(1, 41)]
TARGETS = [example(row=100 + k, row_id=f"t{k}", group="g" if k else "h") for k in range(3)]


class Page(HTMLParser):
    """Tags that are there, and the text of the whole page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.text = "".join(self.pieces)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "onerror", "onclick")]
        self.links += [str(value) for name, value in attrs if name == "xlink:href" and not str(value).startswith("#")]

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    """page(selection, config): its page, as it is written."""

    def write(selection: Selection, config: str = "seed: 0\n") -> Page:
        write_report(tmp_path, report_facts(selection, selection.manifest, config))
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def test_the_page_says_what_was_done(page: Any) -> None:
    looked = compared(POOL, TARGETS, [3, 7, 2], [0, 0, 2])
    left = {"pool, leaked": [{"file": "a.jsonl", "row": 9, "reason": "shares 'x'"}]}
    kept = {"pool, kept": [{"file": "a.jsonl", "row": row, "reason": "shares 'y'"} for row in (4, 99)]}
    words = page(selected(looked, left_out=left, kept=kept, constraints=["included: 0 rows"])).words
    for fact in (
        "3 of 40 usable rows, picked by less",
        "3 rows (7.5% of the usable ones; 12 characters of the replies) picked by less from a pool of 20,000 rows",
        "for 7 target rows",
        "included: 0 rows",
        "Score: a row's cosine similarity: its mean over a group's target rows, of the group where that is highest",
        "1 of 3 target rows are nearest to no pick",
        "Median 4 characters of the replies among the picks, 4 in the pool",
        "None among 3 picks: rows whose sets of five words in a row have a Jaccard similarity of 0.8 or more",
        "pool, leaked: 1 row a.jsonl row 9: shares 'x'",
        "pool, kept: 2 rows, 1 of them picked a.jsonl row 4: shares 'y'",
        "1. u · r4 · score 0.25 user Question 4 assistant Yes. nearest target t0 · h user Question 100 assistant Yes.",
        "20,000 rows, 3 duplicates left out",
        "m (float32, at most 96 tokens; plain)",
        "warm up took12.3 s",
        "seed: 0",
    ):
        assert fact in words, fact


def test_what_there_was_not_is_not_spoken_of(page: Any) -> None:
    found = page(selected(looked_at(POOL, [1, 2]), target=None, model=None, similarity=None, selector="random"))
    for word in ("nearest target", "What was left out", "kept all the same", "took nothing", "score 0", "target rows"):
        assert word not in found.words
    assert "Rows were drawn by chance: there are no scores." in found.words
    assert "The method does not look at a target." in found.words
    assert found.tags.count("svg") == 1


def test_left_out_rows_are_listed_up_to_ten(page: Any) -> None:
    left = [{"file": "a.jsonl", "row": row, "reason": "no end"} for row in range(1, 13)]
    words = page(selected(looked_at(POOL, [1]), left_out={"pool, skipped": left})).words
    assert "pool, skipped: 12 rows" in words
    assert "a.jsonl row 10: no end" in words
    assert "row 11" not in words
    assert "all of them are in manifest.json" in words


def test_only_the_first_rows_and_characters_are_shown(page: Any) -> None:
    rows = [example(answer=f"Answer {k}. " + "word " * 2000, row=k) for k in range(N_ROWS + 1)]
    found = page(selected(looked_at(rows, range(N_ROWS + 1))))
    assert f"Answer {N_ROWS - 1}." in found.text
    assert f"Answer {N_ROWS}." not in found.text
    assert found.words.count(" more are in selected.jsonl or the file") >= N_ROWS
    shown = re.findall(r"Answer 3\. ((?:word ?)+)show ([0-9,]+) more characters((?: ?word)+)", found.words)
    assert len(shown) == 1
    head, n_more, tail = shown[0]
    assert 400 < len(head) <= 500  # to be read at a glance, without a word cut in two
    assert len(tail) == pytest.approx(int(n_more.replace(",", "")), abs=2)
    long = Example.of([Message("assistant", f"Turn {k}.") for k in range(50)], source="s")
    assert "30 more turns" in page(selected(looked_at([long], [0]))).words


def test_text_from_data_is_escaped_wherever_it_stands(page: Any) -> None:
    evil = example(EVIL, EVIL + "\x1b\u202e", EVIL, group=EVIL)
    role = Example.of([Message(EVIL, "x"), Message("assistant", "x")], source="s", file=EVIL, row=1)
    target = [example(EVIL, EVIL, EVIL, group=EVIL), example(EVIL, EVIL, "t", row=2)]
    left = {EVIL: [{"file": EVIL, "row": 1, "reason": EVIL}]}
    looked = compared([evil, role], target, [0, 1], [0, 1])
    model = {"name": EVIL, "dtype": EVIL, "max_tokens": 1, "template": EVIL, "digest": EVIL}
    changes: dict[str, Any] = dict.fromkeys(("method", "budget", "representation", "selector", "similarity"), EVIL)
    changes |= {"left_out": left, "kept": left, "seconds": {EVIL: 1.0}, "constraints": [EVIL], "model": model}
    changes |= {"versions": {EVIL: EVIL}, "stores": {EVIL: {EVIL: EVIL}}}
    found = page(selected(looked, **changes), config=EVIL)
    assert not {"script", "img", "link", "iframe", "a"} & set(found.tags)
    assert found.links == []
    assert found.text.count(EVIL) >= 30  # as text it is all there; templates in it are not run
    assert "\\x1b\\u202e" in found.text
    assert not {"\x1b", "\u202e"} & set(found.text)
    table = Page(render_table(EVIL, [EVIL], [EVIL], [[EVIL]]))
    assert not {"script", "img"} & set(table.tags)
    assert table.text.count(EVIL) == 5


def test_over_representation_is_claimed_where_chance_cannot_explain_it(page: Any) -> None:
    pool = [example("few" if k < 10 else "many", row=k) for k in range(1000)]
    words = page(selected(looked_at(pool, range(10, 1000, 50)))).words
    assert "None of the 2 sources is picked more often than chance would have it." in words
    words = page(selected(looked_at(pool, range(0, 40, 2)))).words
    assert (
        "The most over-represented source is few: 25.0% of the picks, 1.0% of the pool, 25.0 times its share" in words
    )
    assert "random picks would have 0 to 2 of its rows, these have 5" in words


# ---- made anew -----------------------------------------------------------------------------------------------------


def test_the_page_can_be_made_anew(
    finished: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    before = contents(finished / "out")
    for name in ("report.json", "picks.parquet"):
        (tmp_path / name).write_bytes(before[name])
    rerender(tmp_path)
    after = contents(tmp_path)
    assert after["report.html"] == before["report.html"]
    assert {name for name in before if name.startswith(("tables/", "figures/"))} <= set(after)
    for name in after:
        if name.endswith((".csv", ".svg", ".json")):
            assert after[name] == before[name]
    assert after["figures/scores.png"].startswith(b"\x89PNG")
    assert after["figures/scores.pdf"].startswith(b"%PDF")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "report.json", "picks.parquet", "figures", "tables")
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "expected a selection with a report.json"),
        ("{", "cannot be read"),
        ("[1]", "expected a report of format 1"),
        ('{"format": 99}', "expected a report of format 1"),
        ('{"format": 1}', "does not hold what a report needs"),
    ],
)
def test_a_report_that_cannot_be_made_anew_is_left_as_it_was(tmp_path: Path, text: str | None, said: str) -> None:
    (tmp_path / "report.html").write_text("old")
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=said):
        rerender(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} <= {"report.html", "report.json"}


def test_the_facts_of_a_run_with_a_part_missing_are_refused(finished: Path, tmp_path: Path) -> None:
    whole = json.loads((finished / "out" / "report.json").read_text(encoding="utf-8"))
    for name in whole:
        (tmp_path / "report.json").write_text(json.dumps({key: whole[key] for key in whole if key != name}))
        with pytest.raises(InputError, match=r"expected a report of format|does not hold what a report needs"):
            rerender(tmp_path)


# ---- of a run ------------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_needs_no_network(finished: Path) -> None:
    html = (finished / "out" / "report.html").read_text(encoding="utf-8")
    found = Page(html)
    assert found.links == []
    assert {part.split('"')[0] for part in html.split("http")[1:]} == {
        "://www.w3.org/2000/svg",
        "://www.w3.org/1999/xlink",
    }
    assert set(re.findall(r"url\((.)", html)) <= {"#"}  # clip paths of the figures
    assert "6 of 18 usable rows, picked by less" in found.words
    assert "row 20: no completion token within 96 tokens" in found.words
    assert "nearest target t" in found.words
    assert found.tags.count("svg") == 3
