"""Text in one line or paragraph: some words, each in a style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Style = Literal["plain", "strong", "good", "bad", "quiet", "code", "link"]
# An address that may be a link: nothing in it can end an attribute or a Markdown link.
ADDRESS = r"https://[A-Za-z0-9][A-Za-z0-9./#_-]*"


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
