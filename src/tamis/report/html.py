"""report.html of a selection: one file, no network, every text from data escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tamis.data.example import Example
from tamis.data.selection import Selection
from tamis.errors import printable

N_ROWS_SHOWN = 40
N_CHARACTERS_SHOWN = 1200


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One source: rows in the pool and among the picks, shares of both, and the ratio of the shares."""

    source: str
    n_pool: int
    n_picked: int
    pool_share: float
    picked_share: float

    @property
    def ratio(self) -> float:
        """How much more of the picks than of the pool it is."""
        return self.picked_share / self.pool_share


def composition(selection: Selection, n_pool_by_source: dict[str, int]) -> list[SourceLine]:
    """Sources by their share of the picks, largest first."""
    n_picked: dict[str, int] = {}
    for example in selection.examples:
        n_picked[example.source] = n_picked.get(example.source, 0) + 1
    n_pool = sum(n_pool_by_source.values())
    lines = [
        SourceLine(source, n, n_picked.get(source, 0), n / n_pool, n_picked.get(source, 0) / len(selection))
        for source, n in n_pool_by_source.items()
    ]
    return sorted(lines, key=lambda line: (-line.picked_share, line.source))


def render(selection: Selection, manifest: dict[str, Any]) -> str:
    """The page."""
    return (
        _environment()
        .get_template("selection.html.j2")
        .render(
            manifest=manifest,
            sources=composition(selection, manifest["pool"]["sources"]),
            rows=[
                {"example": example, "score": score, "taken_by": taken_by, "messages": _shown(example)}
                for example, score, taken_by in zip(
                    selection.examples[:N_ROWS_SHOWN], selection.scores, selection.taken_by, strict=False
                )
            ],
            n_picked=len(selection),
        )
    )


def render_page(template: str, **values: Any) -> str:
    """A page by its template. Text is escaped; `Markup`, such as a figure of our own, stands as it is."""
    return _environment().get_template(template).render(values)


def render_table(title: str, paragraphs: Sequence[str], header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """A page with a few paragraphs and one table."""
    return (
        _environment()
        .get_template("table.html.j2")
        .render(title=title, paragraphs=paragraphs, header=header, table=table)
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown_value(value: Any) -> Any:
    return printable(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _shown(example: Example) -> list[tuple[str, str]]:
    return [
        (m.role, m.content if len(m.content) <= N_CHARACTERS_SHOWN else m.content[:N_CHARACTERS_SHOWN] + " …")
        for m in example.messages
    ]
