"""Pieces that the terminal views share."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from harness.taps import kind_of


def folded(taps: Sequence[str], layers: int) -> str:
    """Taps of one kind in one word, `layers.*.q_rope`, where they are all that the model's `layers` have."""
    if len(taps) > 1 and len(taps) == layers:
        return f"layers.*.{kind_of(taps[0])}"
    return some(taps)


def some(names: Sequence[str], shown: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def counted(count: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def spaced(content: RenderableType, indent: int = 0) -> Padding:
    """Content after an empty line."""
    return Padding(content, (1, 0, 0, indent), expand=False)


def table(*columns: str) -> Table:
    """A table without lines."""
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        found.add_column(column, overflow="fold")
    return found


def number(value: float | None, form: str = ".2g") -> str:
    """A figure; None is: not finite."""
    return "not finite" if value is None else format(value, form)
