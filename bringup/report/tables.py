"""A table as the templates draw it: on a phone each row becomes a card, so each cell knows its heading."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Cell = str | Markup


@dataclass(frozen=True)
class TableView:
    """A table with a caption."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    """Columns that stand to the right."""
    notes: tuple[str, ...] = ()
    """What stands below each row, over its whole width; empty where nothing does."""


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], numeric: Sequence[int] = (), notes: Sequence[str] = ()
) -> TableView:
    """Make a table; each row has as many cells as there are headings, and a note below it where there are notes."""
    return TableView(
        caption, tuple(headings), tuple(tuple(row) for row in rows), frozenset(numeric), tuple(notes) or ("",) * len(rows)
    )


def tag(text: str, css: str) -> Markup:
    """A word that stands out: by its colour and its weight."""
    return Markup('<span class="tag {}">{}</span>').format(css, text)
