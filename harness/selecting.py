"""Names by glob: `digits`, `batch-*`, `rope_?`; a pattern that matches nothing is refused. Positions and layers by
rule: `every 16th, first 8, last 8`; a rule fits a prompt, or a model, of any length."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from harness.errors import UsageError

PART = re.compile(
    r"(?P<which>first|last)(?: (?P<count>[1-9]\d{0,8}))?|every (?P<step>[1-9]\d{0,8})(?:st|nd|rd|th)?"
)
EXAMPLE = "every 16th, first 8, last 8"


def select(
    names: Iterable[str], patterns: Sequence[str], *, problem: str, where: str, hint: str
) -> tuple[str, ...]:
    """The names that match any of the patterns, in their order; without patterns, all of them.

    Case matters. Patterns take `*`, `?` and `[...]`.

    Args:
        problem, where, hint: what is said of a pattern that matches nothing; it is added to `where`.

    Raises:
        UsageError: a pattern that matches none of the names, which the message lists.
    """
    everything = tuple(names)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in everything):
            raise UsageError(problem, where=f"{where} {pattern}", expected=", ".join(everything), hint=hint)
    return tuple(
        name for name in everything if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)
    )


def is_rule(text: str) -> bool:
    """Whether every part of a text, between commas, is one of a rule."""
    return all(PART.fullmatch(part.strip()) for part in text.split(","))


def positions_of(rule: str, length: int) -> tuple[int, ...]:
    """What a rule names of so many positions, or layers, ascending; `every 16th` begins with 0, `first` is one.

    Raises:
        ValueError: it is no rule.
    """
    found: set[int] = set()
    for part in rule.split(","):
        match = PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part!r} is no part of a rule such as {EXAMPLE!r}")
        count = int(match["count"] or 1)
        if match["step"]:
            found.update(range(0, length, int(match["step"])))
        elif match["which"] == "first":
            found.update(range(min(length, count)))
        else:
            found.update(range(max(0, length - count), length))
    return tuple(sorted(found))
