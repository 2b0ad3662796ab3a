"""The views of a report by the name of their option, and the writing of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from harness.report.audit_document import Audit
from harness.report.diff_document import Diff
from harness.report.document import Report, encode
from harness.report.output import write_output
from harness.report.reading import Document


def render(document: Document, view: str) -> bytes:
    """One view of a check, a diff or an audit, as the file that holds it.

    Raises:
        UsageError: there is no such view of this document.
    """
    if view == "html":
        return _html(document).encode()
    if view == "markdown":
        return _markdown(document).encode()
    if view == "junit":
        return _junit(document)
    assert view == "json", view
    return encode(document)


# A library is imported by the view that needs it.


def _html(document: Document) -> str:
    from harness.report.html import audit_page, check_page, diff_page

    match document:
        case Report():
            return check_page.html(document)
        case Diff():
            return diff_page.html(document)
        case Audit():
            return audit_page.html(document)


def _markdown(document: Document) -> str:
    from harness.report.audit_markdown import audit_markdown
    from harness.report.diff_markdown import diff_markdown
    from harness.report.markdown import markdown

    match document:
        case Report():
            return markdown(document)
        case Diff():
            return diff_markdown(document)
        case Audit():
            return audit_markdown(document)


def _junit(document: Document) -> bytes:
    from harness.report.diff_junit import diff_junit
    from harness.report.junit import junit

    match document:
        case Report():
            return junit(document)
        case Diff():
            return diff_junit(document)
        case Audit():
            raise UsageError(
                "an audit has no JUnit view: it judges the golden, and no port",
                where="--junit",
                expected="a saved check or diff",
                found="a saved audit",
                hint="for a summary in CI: goldens report AUDIT.json --markdown FILE",
            )


def write_views(document: Document, outputs: Mapping[str, Path]) -> None:
    """Write views to files, each whole or not at all; nothing is written before all are rendered.

    Raises:
        UsageError: a file cannot be written, or there is no such view of this document.
    """
    rendered = {path: render(document, view) for view, path in outputs.items()}
    for path, content in rendered.items():
        write_output(path, content)
