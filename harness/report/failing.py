"""The report of a port that could not run, as one side of a diff: all that the other side compared is missing."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import PortError
from harness.report.document import Report
from harness.results import TapResult
from harness.verdict import first_divergence


def failing(other: Report, spec: str | None, error: PortError) -> Report:
    """What a check of a port that raises would say, if it were asked what the other side was asked.

    Args:
        other: the check of the other side.
        spec: the port that raises.
        error: what it raised.
    """
    results = tuple(
        TapResult(r.case, r.precision, r.mode, r.tap, "missing", expected="a value", found=error.problem)
        for r in other.results
        if r.verdict != "extra"
    )
    return replace(
        other,
        port=spec or other.port,
        notes=(f"could not run, and counts as wrong everywhere: {error.problem}",),
        verdict="diverged",
        introduced=(),
        first_divergence=first_divergence(results, tuple(other.taps)),
        acceptance=None,
        not_covered=(),
        results=results,
        generations=(),
        looks_like=None,
    )
