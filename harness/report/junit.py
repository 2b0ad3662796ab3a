"""JUnit XML: of a check a test per case and precision, of a diff one per case; what was not covered is skipped.

In a diff a test fails where something is worse, broken or no longer covered. What was wrong before and still is
fails no test there: that is the check's own view.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from harness.difference import WORSE
from harness.report import wording
from harness.report.agreement import agreement
from harness.report.diff_document import Diff
from harness.report.document import Report
from harness.report.findings import worst_first
from harness.report.pages import diff as diffs
from harness.report.summary import grouped
from harness.report.wording import escaped
from harness.results import TapResult
from harness.verdict import BROKEN, first_divergence, introduced, overall

ILLEGAL = "[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"


def junit(report: Report) -> bytes:
    """The XML of a check. A tap that could not be compared is an error; one that is wrong is a failure."""
    mesh = wording.mesh_of(report)
    return _suite(
        f"{report.port}/{report.golden.model}",
        {"golden": report.golden.id, "verdict": report.verdict} | ({} if mesh is None else {"mesh": mesh}),
        report.notes,
        (*_of_check(report), *_skipped("not covered", report.not_covered)),
    )


def diff_junit(diff: Diff) -> bytes:
    """The XML of a diff."""
    return _suite(
        f"{diff.after.label}/{diff.golden.model}",
        {"golden": diff.golden.id, "verdict": diff.verdict, **dict(diffs.sides(diff))},
        diffs.notes(diff),
        (*_of_diff(diff), *_skipped("left out", diff.left_out), *_skipped("not covered", diffs.not_covered(diff))),
    )


def _of_check(report: Report) -> Iterator[TestCase]:
    if not report.results:
        yield _test("check", Error("nothing was compared"))
    for (case, precision), results in grouped(report.results, lambda r: (r.case, r.precision)).items():
        part, name = _of(report, tuple(results)), f"{case}[{precision}]"
        if part.verdict == "match":
            yield _test(name)
            continue
        lines = list(_what_is_wrong(part))
        kind = Error if any(r.verdict in BROKEN for r in results) else Failure
        result = kind(legal(lines[0] if lines else "nothing was compared"))
        yield _test(name, result, "\n".join([" ".join(wording.headline(part)), *lines]))


def _of(report: Report, results: tuple[TapResult, ...]) -> Report:
    """The report of some of its results alone."""
    order = tuple(report.taps)
    return replace(
        report,
        results=results,
        verdict=overall(results),
        introduced=introduced(results, order),
        first_divergence=first_divergence(results, order),
    )


def _what_is_wrong(report: Report) -> Iterator[str]:
    for broken in wording.uncompared(report):
        yield f"{broken.reason}: {wording.some(broken.taps)}: expected {broken.expected}, found {broken.found}"
    yield from wording.in_a_narrower_dtype(report)
    for finding in worst_first(report):
        yield f"{wording.title(finding)} {wording.place(finding)} ({wording.extent(finding)})"
        yield from (f"  {label}: {text}" for label, text in wording.facts(finding, report))
    downstream = wording.inherited(report)
    if downstream is not None:
        yield downstream
    yield from agreement(report)
    for number, line in enumerate(wording.looks_like(report)):
        yield f"  {line}" if number else f"looks like: {line}"


def _of_diff(diff: Diff) -> Iterator[TestCase]:
    if not diff.cases:
        yield _test("diff", Error("nothing was compared"))
    for case, counts in diff.cases.items():
        is_worse = any(counts.get(status) for status in WORSE)
        lines = list(_what_is_worse(diff, case)) if is_worse else []
        yield _test(case, Failure(legal(lines[0])) if is_worse else None, "\n".join(lines))


def _what_is_worse(diff: Diff, case: str) -> Iterator[str]:
    """Operation by operation, with the largest multiples before and after."""
    changes = tuple(change for change in diff.changes if change.case == case and change.status in WORSE)
    for section in diffs.sections(replace(diff, changes=changes)):
        for o in section.operations:
            yield f"{section.status} at {o.place} ({o.extent}): {o.before} -> {o.after} x {o.unit}"
        if section.inherited:
            yield f"{section.status}: {section.inheritance}"


def _suite(classname: str, properties: dict[str, str], notes: Iterable[str], tests: Iterable[TestCase]) -> bytes:
    """The XML of one suite.

    Args:
        classname: of every test.
        notes: properties too, numbered.
    """
    suite = TestSuite("goldens")
    numbered = {f"note {number}": note for number, note in enumerate(notes, 1)}
    for name, value in (properties | numbered).items():
        suite.add_property(name, legal(value))
    for test in tests:
        test.classname = legal(classname)
        suite.add_testcase(test)
    xml = JUnitXml("goldens")
    xml.add_testsuite(suite)
    out = io.BytesIO()
    xml.write(out, pretty=True)
    return out.getvalue()


def _test(name: str, result: FinalResult | None = None, text: str = "") -> TestCase:
    """A test, with what it came to where that is no success."""
    test = TestCase(legal(name))
    if result is not None:
        if text:
            result.text = legal(text)
        test.result = [result]
    return test


def _skipped(title: str, lines: Iterable[str]) -> Iterator[TestCase]:
    """A skipped test for each line, `subject: reason`."""
    for line in lines:
        subject, _, reason = line.partition(": ")
        yield _test(f"{title}: {subject}", Skipped(legal(reason or subject)))


def legal(text: str) -> str:
    """Text as XML can hold it: a character that it cannot is written as its escape, \\x1b."""
    return re.sub(ILLEGAL, lambda match: escaped(match.group()), text)
