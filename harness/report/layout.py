"""Pieces that the terminal views share."""

from __future__ import annotations

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table


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
