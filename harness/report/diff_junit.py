"""A diff as JUnit XML: a test per case, which fails where something is worse, broken or no longer covered.

What was wrong before and still is fails no test here: that is the check's own view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from junitparser import Error, Failure, TestCase

from harness.difference import WORSE
from harness.report import diff_summary
from harness.report.diff_document import Diff
from harness.report.junit_xml import legal, numbered, skipped, suites


def diff_junit(diff: Diff) -> bytes:
    """The XML."""
    return suites(
        f"{diff.after.label}/{diff.golden.model}",
        {
            "golden": diff.golden.id,
            "verdict": diff.verdict,
            **dict(diff_summary.sides(diff)),
            **numbered(diff_summary.notes(diff)),
        },
        (
            *_tests(diff),
            *skipped("left out", diff.left_out),
            *skipped("not covered", diff_summary.not_covered(diff)),
        ),
    )


def _tests(diff: Diff) -> Iterator[TestCase]:
    if not diff.cases:
        test = TestCase("diff")
        test.result = [Error("nothing was compared")]
        yield test
    for case, counts in diff.cases.items():
        test = TestCase(legal(case))
        if any(counts.get(status) for status in WORSE):
            lines = list(_what_is_worse(diff, case))
            result = Failure(legal(lines[0]))
            result.text = legal("\n".join(lines))
            test.result = [result]
        yield test


def _what_is_worse(diff: Diff, case: str) -> Iterator[str]:
    """Operation by operation, with the largest multiples before and after."""
    changes = tuple(change for change in diff.changes if change.case == case and change.status in WORSE)
    for section in diff_summary.sections(replace(diff, changes=changes)):
        for o in section.operations:
            yield f"{section.status} at {o.place} ({o.extent}): {o.before} -> {o.after} x {o.unit}"
        if section.inherited:
            yield f"{section.status}: {diff_summary.inheritance(section)}"
