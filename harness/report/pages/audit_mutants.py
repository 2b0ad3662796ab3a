"""What only a page has room for: every mutant of an audit at every precision, and every case."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from harness.report.audit_document import BLIND, Audit, AuditedMutant, AuditResult, criteria, topics
from harness.report.blocks import Block, Prose, Section
from harness.report.pages import scales
from harness.report.tables import BEYOND, NOT_COMPARED, Cell, Column, Group, Head, Row, Span, Table, code, numbers
from harness.report.wording import counted, some

SHOWN_CASES = 3
GITHUB = "https://github.com/"
HOW = (
    "The number is the largest noise multiple divided by its limit: above 1 the mutant is caught. Colour: the "
    f"same number, on a logarithmic scale. {BEYOND}: not caught, or caught and not named. {NOT_COMPARED}: no "
    "comparison is changed. NaN: not finite, or not there. The last columns are the usual criteria; a framed "
)
CASES = "How many mutants each case catches, and how many of those it also names. Needed cases first."


def mutants(audit: Audit) -> Iterator[Block]:
    """The table of mutants, topic by topic; those that need looking at are open."""
    names = criteria(audit)
    alarms = {name for score in audit.scores.values() for name in score.false_alarms}
    at = ", ".join(precision for precision, score in audit.scores.items() if score.false_alarms)
    marked = f"; * rejects the right decoder too, at {at}" if at else ""
    framed = Span(f"{BEYOND}pass", "strong")
    yield Prose((HOW, framed, f" is a bug that one of them lets through{marked}."), "quiet")
    yield scales.legend(beyond="")
    upright = tuple(Column(f"{name} *" if name in alarms else name, "narrow") for name in names)
    fixed = ("precision", "outcome", *numbers("× limit"), *_long("introduced at", "cases that see it"))
    for topic in topics(audit):
        tallies = zip(audit.scores, topic.tallies, strict=True)
        note = "; ".join(f"{p} {caught} of {bugs} caught, {named} named" for p, (caught, named, bugs) in tallies)
        fine = all(caught == named == bugs for caught, named, bugs in topic.tallies)
        rows = tuple(row for mutant in topic.mutants for row in _rows(audit, mutant, names))
        table = Table((*fixed, *upright), rows, f"mutants: {topic.name}", kind="grouped")
        yield Section(topic.name, (table,), note, folded=fine)


def _rows(audit: Audit, mutant: AuditedMutant, names: tuple[str, ...]) -> Iterator[Row]:
    """What it is, and its results; what is not caught has a mark and its reason."""
    # The threads that report it are text: a page that stands alone links to nothing.
    seen = ", ".join(url.removeprefix(GITHUB) for url in mutant.seen)
    logits = f"; at the logits: {mutant.at_logits}" if mutant.at_logits else ""
    formulas = (code(mutant.id), f" {mutant.wrong} ", Span("instead of", "quiet"), f" {mutant.right}")
    yield Group(formulas, f"{mutant.kind}{logits}{f'; seen in {seen}' if seen else ''}")
    for result in mutant.results:
        computed = audit.scores[result.precision].criteria
        is_bug = result.outcome in (*BLIND, "caught")
        passes = (
            _passes(name, result) if is_bug and name in computed else Cell("", mark="quiet") for name in names
        )
        yield (result.precision, _outcome(result), _margin(result), *_where(result, mutant), *passes)


def _passes(name: str, result: AuditResult) -> Cell:
    return Cell("fail", mark="quiet") if name in result.criteria else Cell(f"{BEYOND}pass", mark="beyond")


def _where(result: AuditResult, mutant: AuditedMutant) -> tuple[str | Cell, ...]:
    """Where replay finds it and which cases see it; why, where it is not caught."""
    if result.outcome != "caught":
        remedy = f"; would be caught by {result.remedy}" if result.remedy else ""
        return (Cell(f"{result.reason}{remedy}", columns=2),)
    places = ", ".join(result.introduced)
    if not result.named:
        places = f"{places or 'nowhere: forward only'} (it is in {', '.join(mutant.expected)})"
    return places, f"{len(result.cases)}: {some(result.cases, SHOWN_CASES)}"


def _outcome(result: AuditResult) -> str:
    if result.outcome in BLIND:
        return f"{BEYOND} {result.outcome}"
    if result.outcome != "caught":
        return result.outcome
    return "caught, named" if result.named else f"caught, {BEYOND} not named"


def _margin(result: AuditResult) -> Cell:
    if result.compared == 0:
        return Cell(NOT_COMPARED, mark="quiet", title="no comparison is changed")
    value = inf if result.margin is None else result.margin
    changed = f"{counted(result.compared, 'comparison')} changed by a bit or more"
    return Cell(scales.short(value), scales.step(value), title=changed)


def cases(audit: Audit) -> Table:
    """The needed cases and then the others: what each catches and names, and what no other case catches."""
    results = [(mutant.id, result) for mutant in audit.mutants for result in mutant.results]
    rows = []
    for name in (*audit.needed, *audit.spare):
        counts = []
        for precision in audit.scores:
            here = [result for _, result in results if result.precision == precision]
            counts += [f"{sum(name in r.cases for r in here)}", f"{sum(name in r.naming for r in here)}"]
        alone = dict.fromkeys(mutant for mutant, result in results if result.cases == (name,))
        rows.append((name, "needed" if name in audit.needed else "", *counts, ", ".join(alone)))
    names = (name for precision in audit.scores for name in (f"{precision}: caught", "named"))
    return Table(
        ("case", "needed", *numbers(*names), *_long("caught by this case alone")), tuple(rows), "cases", CASES
    )


def _long(*names: str) -> tuple[Head, ...]:
    return tuple(Column(name, "long") for name in names)
