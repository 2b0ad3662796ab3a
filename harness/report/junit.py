"""A check as JUnit XML: a test per case and precision, and a skipped one for each thing not covered."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from harness.comparison import TapResult
from harness.report.document import Report
from harness.report.findings import worst_first
from harness.report.wording import escaped, extent, facts, headline, inherited, place, some, uncompared
from harness.verdict import BROKEN, first_divergence, introduced, overall


def junit(report: Report) -> bytes:
    """The XML. A tap that could not be compared is an error; one that is wrong is a failure."""
    suite = TestSuite("goldens")
    suite.add_property("golden", _legal(report.golden.id))
    suite.add_property("verdict", report.verdict)
    for number, note in enumerate(report.notes, 1):
        suite.add_property(f"note {number}", _legal(note))
    where = _legal(f"{report.port}/{report.golden.model}")
    for test in (*_tests(report), *_skipped(report)):
        test.classname = where
        suite.add_testcase(test)
    suites = JUnitXml("goldens")
    suites.add_testsuite(suite)
    out = io.BytesIO()
    suites.write(out, pretty=True)
    return out.getvalue()


def _tests(report: Report) -> Iterator[TestCase]:
    if not report.results:
        test = TestCase("check")
        test.result = [Error("nothing was compared")]
        yield test
    parts: dict[tuple[str, str], list[TapResult]] = {}
    for r in report.results:
        parts.setdefault((r.case, r.precision), []).append(r)
    for (case, precision), results in parts.items():
        part = _of(report, tuple(results))
        test = TestCase(_legal(f"{case}[{precision}]"))
        if part.verdict != "match":
            kind = Error if any(r.verdict in BROKEN for r in part.results) else Failure
            lines = list(_what_is_wrong(part))
            result = kind(_legal(lines[0]))
            result.text = _legal("\n".join([" ".join(headline(part)), *lines]))
            test.result = [result]
        yield test


def _skipped(report: Report) -> Iterator[TestCase]:
    for line in report.not_covered:
        what, _, reason = line.partition(": ")
        test = TestCase(_legal(f"not covered: {what}"))
        test.result = [Skipped(_legal(reason or what))]
        yield test


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
    for broken in uncompared(report):
        yield f"{broken.reason}: {some(broken.taps)}: expected {broken.expected}, found {broken.found}"
    for finding in worst_first(report):
        yield f"introduced at {place(finding)} ({extent(finding)})"
        yield from (f"  {label}: {text}" for label, text in facts(finding, report))
    downstream = inherited(report)
    if downstream is not None:
        yield downstream


def _legal(text: str) -> str:
    """Text as XML can hold it: a character that it cannot is written as its escape, \\x1b."""
    return "".join(c if _is_legal(ord(c)) else escaped(c) for c in text)


def _is_legal(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
