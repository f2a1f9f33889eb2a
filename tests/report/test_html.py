"""report.html: what it says, and that nothing in the data becomes markup."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tamis.data.example import Example, Message
from tamis.data.selection import Selection
from tamis.report.html import N_CHARACTERS_SHOWN, N_ROWS_SHOWN, SourceLine, composition, render, render_table

EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags that are there, and the text of the whole page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "onerror", "onclick")]

    def handle_data(self, data: str) -> None:
        self.text += data


def example(source: str = "s", answer: str = "Yes.", row_id: str | None = None, row: int = 1) -> Example:
    turns = [Message("user", f"Question {row}"), Message("assistant", answer)]
    return Example.of(turns, source=source, file="a.jsonl", row=row, row_id=row_id)


def selection(*examples: Example, taken_by: str | None = "t1") -> Selection:
    n = len(examples)
    return Selection(list(examples), [0.25] * n, None, [taken_by] * n, [None] * n, {})


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "method": "less",
        "budget": "5%",
        "n_usable": 18_000,
        "pool": {"n_rows": 20_000, "n_duplicates": 3, "sources": {"s": 15_000, "u": 5_000}},
        "target": {"n_rows": 7},
        "model": {"name": "m", "dtype": "float32", "max_tokens": 96, "template": "plain"},
        "seconds": {"warm up": 12.345},
        "left_out": {},
        **changes,
    }


def test_composition_compares_shares() -> None:
    picked = selection(*[example("u", row=k) for k in range(3)], example("s"))
    lines = composition(picked, {"s": 30, "u": 10, "never": 60})
    assert lines == [
        SourceLine("u", 10, 3, 0.1, 0.75),
        SourceLine("s", 30, 1, 0.3, 0.25),
        SourceLine("never", 60, 0, 0.6, 0.0),
    ]
    assert [line.ratio for line in lines] == pytest.approx([7.5, 0.25 / 0.3, 0])


def test_the_page_says_what_was_done() -> None:
    page = Page(render(selection(example(row_id="r7"), example("u", row=2)), manifest()))
    words = " ".join(page.text.split())
    for fact in (
        "2 of 18,000 usable rows, picked by less",
        "20,000 rows, 3 duplicates left out",
        "m (float32, at most 96 tokens; plain)",
        "warm up took12.3 s",
        "1. s · r7 · score 0.25 · nearest target t1",
        "assistant Yes.",
    ):
        assert fact in words
    assert "What was left out" not in words


def test_what_there_was_not_is_not_spoken_of() -> None:
    html = render(selection(example(), taken_by=None), manifest(target=None, model=None, seconds={}))
    assert "nearest target" not in html
    assert "<dt>model" not in html
    assert "<dt>target" not in html


def test_left_out_rows_are_listed_up_to_ten() -> None:
    left = [{"file": "a.jsonl", "row": row, "reason": "no end"} for row in range(1, 13)]
    text = " ".join(Page(render(selection(example()), manifest(left_out={"pool, skipped": left}))).text.split())
    assert "pool, skipped: 12 rows" in text
    assert "a.jsonl row 10: no end" in text
    assert "row 11" not in text
    assert "all of them are in manifest.json" in text


def test_only_the_first_rows_and_characters_are_shown() -> None:
    rows = [example(answer=f"Answer {k}. " + "x" * N_CHARACTERS_SHOWN, row=k) for k in range(N_ROWS_SHOWN + 1)]
    html = render(selection(*rows), manifest())
    assert f"Answer {N_ROWS_SHOWN - 1}." in html
    assert f"Answer {N_ROWS_SHOWN}." not in html
    assert "x" * (N_CHARACTERS_SHOWN - 20) in html
    assert "x" * N_CHARACTERS_SHOWN not in html


def test_text_from_data_is_escaped_wherever_it_stands() -> None:
    evil = example(EVIL, EVIL, EVIL)
    role = Example.of([Message(EVIL, "x"), Message("assistant", "x")], source="s", file=EVIL, row=1)
    left = {EVIL: [{"file": EVIL, "row": 1, "reason": EVIL}]}
    facts = manifest(method=EVIL, budget=EVIL, left_out=left, seconds={EVIL: 1.0}, target={"n_rows": 1})
    facts["pool"]["sources"] = {EVIL: 1, "s": 1}
    facts["model"] = {"name": EVIL, "dtype": EVIL, "max_tokens": 1, "template": EVIL}
    page = Page(render(selection(evil, role, taken_by=EVIL), facts))
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.links == []
    assert page.text.count(EVIL) >= 15  # as text it is all there; templates in it are not run
    table = Page(render_table(EVIL, [EVIL], [EVIL], [[EVIL]]))
    assert not {"script", "img"} & set(table.tags)
    assert table.text.count(EVIL) == 5


def test_the_page_of_a_run_needs_no_network(finished: Path) -> None:
    html = (finished / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.links == []
    assert "http" not in html
    assert "url(" not in html
    assert "6 of 18 usable rows, picked by less" in page.text
    assert "row 20: no completion token within 96 tokens" in page.text
