"""The views of a document by the name of their option, what is printed of it, and the writing of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.report.document import encode
from harness.report.output import write_output
from harness.report.pages import page_of

if TYPE_CHECKING:
    from rich.console import Console

    from harness.report.reading import Document

NO_JUNIT = {
    "audit": "an audit has no JUnit view: it judges the golden, and no port",
    "diagnosis": "a diagnosis has no JUnit view: the check beside it has one",
}

# A library, a renderer and the page of a kind of document are imported by the view that needs them.


def print_document(document: Document, console: Console) -> None:
    """Print it as a person reads it in a terminal."""
    from harness.report.terminal import print_page

    print_page(page_of(document, "screen"), console)


def report_text(document: Document, width: int) -> str:
    """The same as plain text, lines of at most `width` characters."""
    from harness.report.terminal import text

    return text(page_of(document, "screen"), width)


def html(document: Document) -> str:
    """One page for a browser, on which everything is."""
    from harness.report import html

    return html.html(page_of(document, "page"))


def markdown(document: Document) -> str:
    """A summary, as GitHub shows it for a step of CI."""
    from harness.report import markdown

    return markdown.markdown(page_of(document, "summary"))


def junit(document: Document) -> bytes:
    """JUnit XML of a check or a diff.

    Raises:
        UsageError: it is neither.
    """
    from harness.report import junit

    if document.kind == "check":
        return junit.junit(document)
    if document.kind == "diff":
        return junit.diff_junit(document)
    problem = NO_JUNIT[document.kind]
    hint = f"for a summary in CI: goldens report {document.kind.upper()}.json --markdown FILE"
    raise UsageError(problem, "--junit", "a saved check or diff", f"a saved {document.kind}", hint=hint)


def render(document: Document, view: str) -> bytes:
    """One view of a document, json, html, markdown or junit, as the file that holds it.

    Raises:
        UsageError: there is no such view of this document.
    """
    if view == "junit":
        return junit(document)
    return encode(document) if view == "json" else {"html": html, "markdown": markdown}[view](document).encode()


def write_views(document: Document, outputs: Mapping[str, Path]) -> None:
    """Write views to files, each whole or not at all; nothing is written before all are rendered.

    Raises:
        UsageError: a file cannot be written, or there is no such view of this document.
    """
    rendered = {path: render(document, view) for view, path in outputs.items()}
    for path, content in rendered.items():
        write_output(path, content)
