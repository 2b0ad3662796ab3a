"""The views of a report by the name of their option, and the writing of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from harness.report.diff_document import Diff
from harness.report.document import Report, encode
from harness.report.output import write_output


def render(document: Report | Diff, view: str) -> bytes:
    """One view of a check or a diff, as the file that holds it. A library is imported by the view that needs it.

    Raises:
        UsageError: there is no such view of a diff.
    """
    if view == "html":
        from harness.report.html import check_page, diff_page

        page = check_page.html(document) if isinstance(document, Report) else diff_page.html(document)
        return page.encode()
    if view == "markdown":
        from harness.report.diff_markdown import diff_markdown
        from harness.report.markdown import markdown

        return (markdown(document) if isinstance(document, Report) else diff_markdown(document)).encode()
    if view == "junit":
        from harness.report.junit import junit

        if isinstance(document, Diff):
            raise UsageError(
                "a diff has no JUnit view: it has no tests that pass or fail",
                where="--junit",
                expected="a saved check",
                found="a saved diff",
                hint="render the check of the side that you mean: goldens report after.json --junit FILE",
            )
        return junit(document)
    assert view == "json", view
    return encode(document)


def write_views(document: Report | Diff, outputs: Mapping[str, Path]) -> None:
    """Write views to files, each whole or not at all; nothing is written before all are rendered.

    Raises:
        UsageError: a file cannot be written, or there is no such view of a diff.
    """
    rendered = {path: render(document, view) for view, path in outputs.items()}
    for path, content in rendered.items():
        write_output(path, content)
