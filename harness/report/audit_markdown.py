"""An audit as a GitHub step summary: what the golden cannot see first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report import audit_summary as words
from harness.report.audit_document import Audit
from harness.report.audit_summary import Unseen
from harness.report.markdown import SHOWN_LINES, code, details, fitted, rows, table, text


def audit_markdown(audit: Audit) -> str:
    """The summary, never larger than GitHub takes."""
    return fitted(_sections(audit))


def _sections(audit: Audit) -> Iterator[str]:
    word, of = words.headline(audit)
    yield f"## goldens audit: {word}\n\n{text(of)}: model {code(audit.golden.model)}\n"
    yield _unseen("caught at no precision", list(words.blind_spots(audit)))
    for precision in audit.scores:
        yield _unseen(f"not caught at {precision}", list(words.missed(audit, precision)))
        unnamed = [(code(mutant.id), text(found)) for mutant, found in words.unnamed(audit, precision)]
        yield _shown((f"caught at {precision}, not named", "found"), unnamed)
    yield table(
        ("", *audit.scores), [(text(label.strip()), *map(text, cells)) for label, cells in words.score_rows(audit)]
    )
    yield "\n" + rows([f"{p}: {words.sanity(score)}" for p, score in audit.scores.items()])
    families = [
        (text(family.name), *(f"{caught}, {named}, {bugs}" for caught, named, bugs in family.tallies))
        for family in words.families(audit)
    ]
    yield details("Families", table(("caught, named, of", *audit.scores), families))
    no_bugs = [f"{unseen.mutant.id}: {words.why(unseen)}" for unseen in words.no_bugs(audit)]
    if no_bugs:
        yield details(f"Equivalent or refused: {len(no_bugs)}", rows(no_bugs))
    yield details("Cases", rows(words.cases(audit)))
    if audit.not_covered:
        yield details(f"Not covered: {len(audit.not_covered)}", rows(audit.not_covered))
    yield details(
        "Golden", rows([f"golden {audit.golden.id} at {audit.golden.path}", f"ran on {words.ran_on(audit)}"])
    )


def _unseen(title: str, found: Sequence[Unseen]) -> str:
    cells = [(code(u.mutant.id), text(f"{u.outcome}: {u.reason}"), text(u.remedy or "")) for u in found]
    return _shown((title, "reason", "would be caught by"), cells)


def _shown(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table, cut where it is long; nothing where it is empty."""
    if not cells:
        return ""
    more = len(cells) - SHOWN_LINES
    rest = f"\nand {more} more, in the JSON report\n" if more > 0 else ""
    return table(heads, cells[:SHOWN_LINES]) + rest
