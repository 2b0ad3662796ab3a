"""A diff as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report import diff_summary
from harness.report.diff_document import Diff
from harness.report.html.ladder import Ladder, Measured, ladder
from harness.report.html.page import render
from harness.report.wording import unit


def html(diff: Diff) -> str:
    """The page."""
    return render(
        "diff.html.jinja",
        diff=diff,
        words=diff_summary,
        headline=diff_summary.headline(diff),
        sides=tuple(diff_summary.sides(diff)),
        notes=tuple(diff_summary.notes(diff)),
        sections=sorted(diff_summary.sections(diff), key=lambda section: section.better),
        still_wrong=diff_summary.still_wrong(diff),
        wrong=tuple(diff_summary.operations(diff, diff.still_wrong)),
        ladders=tuple(ladders(diff)),
        logits=tuple(
            (entry.precision, tuple(zip(*map(diff_summary.logit_row, (entry.before, entry.after)), strict=True)))
            for entry in diff.logits
        ),
        choices=tuple(diff_summary.choices(diff)),
        not_covered=diff_summary.not_covered(diff),
    )


def ladders(diff: Diff) -> Iterator[Ladder]:
    """One ladder per precision, with both sides on it."""
    for precision, limits in diff.limits.items():
        measured = [
            Measured(
                f"{when}, {entry.mode}", side.rms_multiple, f"{side.tap} in {side.case}", side.rms_limit, kind
            )
            for entry in diff.largest
            if entry.precision == precision
            for when, kind, side in (("before", "before", entry.before), ("after", "port", entry.after))
        ]
        yield ladder(precision, unit(precision), limits, measured)
