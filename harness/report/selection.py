"""A part of a check: some of its precisions, modes and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report.document import Report
from harness.selecting import select


@dataclass(frozen=True)
class Selection:
    """What is compared. None (and no cases) is: whatever is there.

    Attributes:
        cases: glob patterns of case names.
    """

    precisions: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    cases: tuple[str, ...] = ()


def narrowed(report: Report, selection: Selection, label: str) -> Report:
    """A check reduced to the results that are selected.

    Args:
        label: what the user calls the check.

    Raises:
        UsageError: something is selected that the check does not have.
    """
    names = (
        _chosen(report, "precision", selection.precisions or (), label),
        _chosen(report, "mode", selection.modes or (), label),
        _chosen(report, "case", selection.cases, label),
    )
    precisions, modes, cases = names
    kept = (r for r in report.results if r.precision in precisions and r.mode in modes and r.case in cases)
    return replace(report, results=tuple(kept))


def _chosen(report: Report, field: str, patterns: Sequence[str], label: str) -> frozenset[str]:
    """The names in a field of the results that match any pattern; without patterns, all of them."""
    names = list(dict.fromkeys(getattr(result, field) for result in report.results))
    chosen = select(
        names,
        patterns,
        problem="a side does not have what was selected",
        where=f"{label}: --{field}",
        hint=f"leave --{field} out, or save that check again with it",
    )
    return frozenset(chosen)
