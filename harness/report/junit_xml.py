"""JUnit XML from tests: what the views of a check and of a diff share."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping

from junitparser import JUnitXml, Skipped, TestCase, TestSuite

from harness.report.wording import escaped


def suites(classname: str, properties: Mapping[str, str], tests: Iterable[TestCase]) -> bytes:
    """The XML of one suite.

    Args:
        classname: of every test.
    """
    suite = TestSuite("goldens")
    for name, value in properties.items():
        suite.add_property(name, legal(value))
    for test in tests:
        test.classname = legal(classname)
        suite.add_testcase(test)
    xml = JUnitXml("goldens")
    xml.add_testsuite(suite)
    out = io.BytesIO()
    xml.write(out, pretty=True)
    return out.getvalue()


def skipped(title: str, lines: Iterable[str]) -> Iterator[TestCase]:
    """A skipped test for each line, `what: reason`."""
    for line in lines:
        what, _, reason = line.partition(": ")
        test = TestCase(legal(f"{title}: {what}"))
        test.result = [Skipped(legal(reason or what))]
        yield test


def numbered(notes: Iterable[str]) -> dict[str, str]:
    """Notes as properties."""
    return {f"note {number}": note for number, note in enumerate(notes, 1)}


def legal(text: str) -> str:
    """Text as XML can hold it: a character that it cannot is written as its escape, \\x1b."""
    return "".join(c if _is_legal(ord(c)) else escaped(c) for c in text)


def _is_legal(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
