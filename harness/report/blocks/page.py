"""What every report that a person reads is made of: a page of blocks, as plain data.

A document becomes a page in `harness.report.pages`, by one pure function a kind of document. The renderers of
`harness.report.render` set any page in a terminal, in Markdown or in HTML; they know blocks, and no documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.report.blocks.inline import Style, Text

from harness.report.blocks.table import Cell, Table

# How much a page says: what fits a terminal's screen, a CI step's summary, or everything, for a browser.
Detail = Literal["screen", "summary", "page"]


@dataclass(frozen=True)
class Prose:
    """A paragraph; in style quiet it explains, as a note it warns."""

    text: Text
    style: Literal["plain", "quiet", "note", "finding"] = "plain"


@dataclass(frozen=True)
class Lines:
    """A list, each line on its own."""

    lines: tuple[Text, ...]


@dataclass(frozen=True)
class Facts:
    """Labels with what there is to say of each; facts can have facts of their own."""

    rows: tuple[tuple[str, Text | Facts], ...]


@dataclass(frozen=True)
class Legend:
    """The steps of the colour scale, smallest first."""

    steps: tuple[Cell, ...]


@dataclass(frozen=True)
class Rung:
    """One line of a ladder.

    Attributes:
        kind: noise, limit, bug, port or before; each has its own symbol.
        left: where it stands on the axis, in percent.
    """

    kind: str
    name: str
    text: str
    where: str
    left: float


@dataclass(frozen=True)
class Ladder:
    """Figures on one logarithmic axis, smallest first.

    Attributes:
        limit: where the limit stands on the axis, in percent.
        ticks: (percent, label) of the axis.
        about: how to read it.
    """

    title: str
    rungs: tuple[Rung, ...]
    limit: float
    ticks: tuple[tuple[float, str], ...]
    about: str

    @property
    def table(self) -> Table:
        """The same without an axis."""
        rungs = tuple((rung.name, rung.text, rung.where) for rung in self.rungs)
        return Table((self.title, "rms multiple", "at"), rungs, about=self.about)


@dataclass(frozen=True)
class Finding:
    """Something that a reader has to look at, or that got better: what, where, how far it goes, and the facts."""

    title: str
    place: str = ""
    extent: str = ""
    facts: tuple[tuple[str, Text], ...] = ()
    body: tuple[Block, ...] = ()
    better: bool = False


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        title: empty where a heading would say nothing: the blocks are then only set off.
        note: what is said beside the heading.
        link: its name in the page's table of contents; empty is: not in it.
        folded: where it can be folded away, whether it is at first; None is: it cannot.
    """

    title: str
    body: tuple[Block, ...]
    note: str = ""
    link: str = ""
    folded: bool | None = None

    @property
    def id(self) -> str:
        return self.link.lower().replace(" ", "-")


Block = Prose | Lines | Facts | Table | Legend | Ladder | Finding | Section


@dataclass(frozen=True)
class Page:
    """A document as a person reads it.

    Attributes:
        command: what made it: `goldens`, `goldens diff`.
        title: what it is of, in a line.
        word: the verdict; empty where nothing is judged.
        style: good, bad, or neither.
        said: what stands beside the word.
        facts: who, what and where.
        notes: what a reader has to know first.
    """

    command: str
    title: str
    word: str
    style: Style
    said: str
    facts: tuple[tuple[str, Text], ...]
    notes: tuple[str, ...]
    body: tuple[Block, ...]


def tree(mapping: Mapping[str, Any]) -> Facts:
    """Nested settings as facts."""
    return Facts(tuple((str(key), _value(value)) for key, value in mapping.items()))


def _value(value: object) -> Text | Facts:
    if isinstance(value, Mapping):
        return tree(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
