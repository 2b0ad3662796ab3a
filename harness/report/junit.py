"""A check as JUnit XML: a test per case and precision, and a skipped one for each thing not covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from junitparser import Error, Failure, TestCase

from harness.report.agreement import agreement
from harness.report.document import Report
from harness.report.findings import worst_first
from harness.report.junit_xml import legal, numbered, skipped, suites
from harness.report.wording import (
    extent,
    facts,
    headline,
    in_a_narrower_dtype,
    inherited,
    looks_like,
    mesh_of,
    place,
    some,
    title,
    uncompared,
)
from harness.results import TapResult
from harness.verdict import BROKEN, first_divergence, introduced, overall


def junit(report: Report) -> bytes:
    """The XML. A tap that could not be compared is an error; one that is wrong is a failure."""
    return suites(
        f"{report.port}/{report.golden.model}",
        {"golden": report.golden.id, "verdict": report.verdict, **_mesh(report), **numbered(report.notes)},
        (*_tests(report), *skipped("not covered", report.not_covered)),
    )


def _mesh(report: Report) -> dict[str, str]:
    """The mesh that the port was given, as a property."""
    mesh = mesh_of(report)
    return {} if mesh is None else {"mesh": mesh}


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
        test = TestCase(legal(f"{case}[{precision}]"))
        if part.verdict != "match":
            kind = Error if any(r.verdict in BROKEN for r in part.results) else Failure
            lines = list(_what_is_wrong(part))
            result = kind(legal(lines[0] if lines else "nothing was compared"))
            result.text = legal("\n".join([" ".join(headline(part)), *lines]))
            test.result = [result]
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
    yield from in_a_narrower_dtype(report)
    for finding in worst_first(report):
        yield f"{title(finding)} {place(finding)} ({extent(finding)})"
        yield from (f"  {label}: {text}" for label, text in facts(finding, report))
    downstream = inherited(report)
    if downstream is not None:
        yield downstream
    yield from agreement(report)
    for number, line in enumerate(looks_like(report)):
        yield f"  {line}" if number else f"looks like: {line}"
