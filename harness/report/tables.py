"""Text in one line or paragraph, some words, each in a style; and tables of it: heads, and rows of cells.

Heat maps are tables of shaded cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Style = Literal["plain", "strong", "good", "bad", "quiet", "code", "link"]
# An address that may be a link: nothing in it can end an attribute or a Markdown link.
ADDRESS = r"https://[A-Za-z0-9][A-Za-z0-9./#_-]*"
BEYOND, BROKEN, NOT_COMPARED = "▲", "×", "–"


@dataclass(frozen=True)
class Span:
    """Some words in one style."""

    text: str
    style: Style = "plain"


Text = str | Span | tuple[str | Span, ...]


def spans(text: Text) -> Iterator[Span]:
    """The parts of a text, each with its style."""
    parts = text if isinstance(text, tuple) else (text,)
    return (part if isinstance(part, Span) else Span(part) for part in parts)


def linked(line: str) -> tuple[str | Span, ...]:
    """A line with its addresses as links."""
    parts = re.split(f"({ADDRESS})", line)
    return tuple(Span(part, "link") if place % 2 else part for place, part in enumerate(parts))


def code(text: str) -> Span:
    return Span(text, "code")


def strong(text: str) -> Span:
    return Span(text, "strong")


@dataclass(frozen=True)
class Column:
    """The head of a column: of numbers (to the right), of long text (wrapped), or of narrow cells (upright)."""

    name: str
    kind: Literal["text", "number", "long", "narrow"] = "text"


Head = str | Column


def numbers(*names: str) -> tuple[Head, ...]:
    """Heads of columns of numbers."""
    return tuple(Column(name, "number") for name in names)


@dataclass(frozen=True)
class Cell:
    """A cell that is more than text.

    Attributes:
        shade: the step of the colour scale (`harness.report.pages.scales`) behind it.
        mark: `beyond` is framed, `broken` has no figure since nothing could be compared, `quiet` has none either.
        title: where it comes from; shown where somebody points at it.
        columns: how many it spans.
    """

    text: Text
    shade: int | None = None
    mark: Literal["", "quiet", "beyond", "broken"] = ""
    title: str = ""
    columns: int = 1


@dataclass(frozen=True)
class Group:
    """A row of a table that is a heading of those below it."""

    text: Text
    small: str = ""


Row = tuple[Text | Cell, ...] | Group


def cells(row: Row) -> tuple[Text | Cell, ...]:
    """What a row has; a heading is alone in its row."""
    return (row.text,) if isinstance(row, Group) else row


def words(cell: Text | Cell) -> Text:
    """What is written in a cell."""
    return cell.text if isinstance(cell, Cell) else cell


@dataclass(frozen=True)
class Table:
    """Rows of cells, of which the first is what the row is of.

    Attributes:
        label: what the table is called where it is not seen.
        about: what is in it, and how to read it; said where there is room.
        kind: `heat` is a map of shaded cells, `grouped` has rows under headings.
        rest: how many rows there are beside these, in the JSON report.
    """

    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    label: str = ""
    about: str = ""
    kind: Literal["plain", "heat", "grouped"] = "plain"
    rest: int = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(head if isinstance(head, Column) else Column(head) for head in self.heads)
