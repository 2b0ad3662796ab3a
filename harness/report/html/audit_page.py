"""An audit as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from harness.report import audit_summary
from harness.report.audit_document import BLIND, Audit, AuditedMutant, AuditResult
from harness.report.html import heatmap, scale
from harness.report.html.page import render
from harness.report.wording import counted, some

SHOWN_CASES = 3
GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Row:
    """One mutant at one precision, as text.

    Attributes:
        margin: its cell; the colour is that of the heat maps, with the limit at 1.
        reason: why it is not caught, with what would catch it; then `introduced` and `cases` are empty.
        passes: for every usual criterion whether its logits pass; None where it is no bug, or was not computed.
    """

    precision: str
    outcome: str
    margin: heatmap.Cell
    introduced: str
    cases: str
    reason: str
    passes: tuple[bool | None, ...]


@dataclass(frozen=True)
class Entry:
    """One mutant with its rows; `seen` is where it was reported, short."""

    mutant: AuditedMutant
    seen: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """A family of the catalogue: what became of it, and whether that needs looking at."""

    family: audit_summary.Family
    entries: tuple[Entry, ...]
    open: bool


@dataclass(frozen=True)
class CaseRow:
    """One case: what it catches and names at each precision, and the mutants that no other case catches."""

    name: str
    needed: bool
    caught: tuple[int, ...]
    named: tuple[int, ...]
    alone: tuple[str, ...]


def html(audit: Audit) -> str:
    """The page."""
    word, of = audit_summary.headline(audit)
    names = audit_summary.criteria(audit)
    return render(
        "audit.html.jinja",
        audit=audit,
        words=audit_summary,
        headline=(word, of),
        blind=tuple(mutant for mutant in audit.mutants if mutant.id in audit.blind),
        blind_spots=tuple(audit_summary.blind_spots(audit)),
        missed={precision: tuple(audit_summary.missed(audit, precision)) for precision in audit.scores},
        unnamed={precision: tuple(audit_summary.unnamed(audit, precision)) for precision in audit.scores},
        criteria=names,
        alarms=tuple(name for name in names if any(name in s.false_alarms for s in audit.scores.values())),
        overlooked={p: tuple(audit_summary.overlooked(audit, p)) for p in audit.scores},
        sections=tuple(sections(audit)),
        legend=scale.legend(),
        cases=tuple(cases(audit)),
    )


def sections(audit: Audit) -> Iterator[Section]:
    """The table of mutants, family by family."""
    names = audit_summary.criteria(audit)
    for family in audit_summary.families(audit):
        entries = tuple(
            Entry(m, seen(m), tuple(row(audit, result, m, names) for result in m.results)) for m in family.mutants
        )
        fine = all(caught == named == bugs for caught, named, bugs in family.tallies)
        yield Section(family, entries, open=not fine)


def row(audit: Audit, result: AuditResult, mutant: AuditedMutant, criteria: tuple[str, ...]) -> Row:
    """A result as text; what is not caught has a mark and its reason."""
    caught = result.outcome == "caught"
    remedy = f"; would be caught by {result.remedy}" if result.remedy else ""
    computed = audit.scores[result.precision].criteria
    is_bug = caught or result.outcome in BLIND
    return Row(
        result.precision,
        _outcome(result),
        _margin(result),
        _introduced(result, mutant),
        f"{len(result.cases)}: {some(result.cases, SHOWN_CASES)}" if caught else "",
        "" if caught else f"{result.reason}{remedy}",
        tuple(name not in result.criteria if is_bug and name in computed else None for name in criteria),
    )


def _outcome(result: AuditResult) -> str:
    if result.outcome in BLIND:
        return f"{heatmap.BEYOND} {result.outcome}"
    if result.outcome != "caught":
        return result.outcome
    return "caught, named" if result.named else f"caught, {heatmap.BEYOND} not named"


def _introduced(result: AuditResult, mutant: AuditedMutant) -> str:
    if result.named or result.outcome != "caught":
        return ", ".join(result.introduced)
    return f"{', '.join(result.introduced) or 'nowhere: forward only'} (it is in {', '.join(mutant.expected)})"


def _margin(result: AuditResult) -> heatmap.Cell:
    if result.compared == 0:
        return heatmap.Cell(heatmap.NOT_COMPARED, None, "no comparison is changed")
    value = inf if result.margin is None else result.margin
    changed = f"{counted(result.compared, 'comparison')} changed by a bit or more"
    return heatmap.Cell(scale.short(value), scale.step(value), changed)


def seen(mutant: AuditedMutant) -> str:
    """The threads that report it, as text: a page that stands alone links to nothing."""
    return ", ".join(url.removeprefix(GITHUB) for url in mutant.seen)


def cases(audit: Audit) -> Iterator[CaseRow]:
    """The needed cases and then the others, each with what it catches."""
    results = [(mutant.id, result) for mutant in audit.mutants for result in mutant.results]
    for name in (*audit.needed, *audit.spare):
        alone = dict.fromkeys(mutant for mutant, result in results if result.cases == (name,))
        yield CaseRow(
            name,
            name in audit.needed,
            tuple(sum(name in r.cases for _, r in results if r.precision == p) for p in audit.scores),
            tuple(sum(name in r.naming for _, r in results if r.precision == p) for p in audit.scores),
            tuple(alone),
        )
