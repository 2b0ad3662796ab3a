"""Selecting by glob: `digits`, `batch-*`, `rope_?`. A pattern that matches nothing is refused."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from harness.errors import UsageError


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
