"""Pieces that the terminal views share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table

from harness.report.wording import escaped


@dataclass(frozen=True)
class _Visible:
    """Content whose characters all show: a name from outside does not move the cursor or change colours."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for segment in console.render(self.content, options):
            text = "".join(c if c.isprintable() or c == "\n" else escaped(c) for c in segment.text)
            yield Segment(text, segment.style)


def print_parts(parts: Iterable[RenderableType], console: Console) -> None:
    """Print the parts of a view one below the other."""
    console.print(_Visible(Group(*parts)), highlight=False)


def counted(count: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def spaced(content: RenderableType, indent: int = 0) -> Padding:
    """Content after an empty line."""
    return Padding(content, (1, 0, 0, indent), expand=False)


def table(*columns: str, gap: int = 2) -> Table:
    """A table without lines; a `gap` of 1 is for one that has to fit 80 characters."""
    found = Table(box=None, padding=(0, gap, 0, 0), header_style="dim")
    for column in columns:
        found.add_column(column, overflow="fold")
    return found
