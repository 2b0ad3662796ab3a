"""An audit as a page: what the golden cannot see, the score beside the usual criteria, the cases needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from harness.report.audit_document import (
    BLIND,
    Audit,
    AuditedMutant,
    Score,
    at_precision,
    criteria,
    topics,
)
from harness.report.blocks import Block, Detail, Facts, Finding, Lines, Page, Prose, Section
from harness.report.pages import closing, listed, part, ran_on
from harness.report.tables import BEYOND, Span, Table, Text, code, strong
from harness.report.wording import counted, number, some

WEAKEST = 5
NO_BUG = ("equivalent", "refused")
PLANTED = (
    "Every mutant, a known porting bug, was planted in the built-in decoder and checked against this golden. What "
    "no comparison notices, the golden cannot see in a port either."
)
SCORE = (
    "How many of the mutants are caught: by the goldens, and by each of the usual criteria on the same runs. "
    "Named: found in replay at the operation where the bug is, and nowhere else. Neither equivalent nor refused "
    "ones count as bugs, or as caught."
)


@dataclass(frozen=True)
class Unseen:
    """A mutant that is not caught, at the precisions for which the reason is the same."""

    mutant: AuditedMutant
    outcome: str
    precisions: tuple[str, ...]
    reason: str
    remedy: str | None


def page(audit: Audit, detail: Detail) -> Page:
    """An audit as a person reads it."""
    sees, count = audit.verdict == "sees", len(audit.mutants)
    known = {
        "model": audit.golden.model,
        "golden": f"{audit.golden.path}  {audit.golden.id[:12]}",
        "ran on": ran_on(audit.environment),
    }
    return Page(
        command="goldens audit",
        title=f"audit of {audit.golden.model}",
        word="SEES" if sees else "BLIND",
        style="good" if sees else "bad",
        said=f"every mutant that is a bug here, of {count} that were asked for"
        if sees
        else f"to {len(audit.blind)} of {count} mutants",
        facts=tuple(known.items())[: 1 if detail == "summary" else None],
        notes=(),
        body=tuple(_body(audit, detail)),
    )


def _body(audit: Audit, detail: Detail) -> Iterator[Block]:
    folded = True if detail == "summary" else None
    yield from part(detail, "What this golden cannot see", _unseen(audit, detail), link="Blind spots")
    yield from part(detail, "Score", _score(audit, folded), link="Score")
    cases: tuple[Block, ...] = ()
    if detail == "page":
        from harness.report.pages import audit_mutants  # what nothing else needs

        yield Section("Every mutant", tuple(audit_mutants.mutants(audit)), link="Mutants")
        cases = (audit_mutants.cases(audit),)
    else:
        tallies = ((f.name, *(", ".join(map(str, tally)) for tally in f.tallies)) for f in topics(audit))
        table = Table(("family: caught, named, of", *audit.scores), tuple(tallies))
        yield Section("Families", (table,), folded=folded)
        if no_bugs := tuple(_reason(unseen) for m in audit.mutants for unseen in _grouped(m, NO_BUG)):
            yield Section("Equivalent or refused", (Facts(no_bugs),), f"{len(no_bugs)}", folded=folded)
    needed = (
        f"these {len(audit.needed)} catch and name all that is caught and named: "
        f"{', '.join(audit.needed) or 'none'}",
        f"the other {len(audit.spare)} add nothing for the arithmetic (they may be there for their tokens): "
        f"{', '.join(audit.spare) or 'none'}",
    )
    yield Section("Cases", (Lines(needed), *cases), link="Cases", folded=folded)
    yield from listed("Not covered", audit.not_covered, detail)
    yield from closing(detail, audit.golden, audit.limits, {"ran on": audit.environment})


def _unseen(audit: Audit, detail: Detail) -> Iterator[Block]:
    """What is caught at no precision, not at one of them, or caught and not named."""
    by_title: dict[str, list[tuple[str, Text]]] = {}
    if detail == "page":
        yield Prose(PLANTED)
        yield from _blind(audit)
        if not audit.blind:
            at = ", ".join(audit.scores)
            yield Prose(f"Every mutant that is a bug here is caught at one of these precisions at least: {at}.")
    else:
        spots = (unseen for m in audit.mutants if m.id in audit.blind for unseen in _grouped(m, BLIND))
        by_title["Caught at no precision"] = [_reason(unseen) for unseen in spots]
    for precision in audit.scores:
        missed = f"Not caught at {precision}, and caught at another precision"
        unnamed = f"Caught at {precision}, but not at the operation where it is and there alone"
        by_title[missed], by_title[unnamed] = list(_missed(audit, precision)), list(_unnamed(audit, precision))
    for title, facts in by_title.items():
        if facts:
            yield Section(title, (Facts(tuple(facts)),), f"{len(facts)}")


def _blind(audit: Audit) -> Iterator[Finding]:
    """Of every mutant that no precision catches what it is, why it is not seen, and what would catch it."""
    for mutant in (mutant for mutant in audit.mutants if mutant.id in audit.blind):
        facts: list[tuple[str, Text]] = [("wrong", mutant.wrong), ("right", mutant.right)]
        facts.append(("it is in", f"{', '.join(mutant.expected)} ({mutant.family})"))
        for unseen in _grouped(mutant, BLIND):
            facts.append((", ".join(unseen.precisions), f"{unseen.outcome}: {unseen.reason}"))
            facts += [("caught by", strong(unseen.remedy))] if unseen.remedy else []
        facts += [("seen in", ", ".join(mutant.seen))] if mutant.seen else []
        yield Finding(f"{BEYOND} not caught", mutant.id, facts=tuple(facts))


def _missed(audit: Audit, precision: str) -> Iterator[tuple[str, Text]]:
    """The mutants that this precision does not catch and another one does."""
    for mutant in audit.mutants:
        if mutant.id not in audit.blind and at_precision(mutant, precision).outcome in BLIND:
            yield _reason(next(unseen for unseen in _grouped(mutant, BLIND) if precision in unseen.precisions))


def _unnamed(audit: Audit, precision: str) -> Iterator[tuple[str, Text]]:
    """The mutants that are caught, but not at the operation where they are and there alone."""
    for mutant in audit.mutants:
        result = at_precision(mutant, precision)
        if result.outcome == "caught" and not result.named:
            kinds = ", ".join(result.introduced)
            where = f"introduced at {kinds}" if kinds else "in the forward pass only"
            yield mutant.id, f"{where}, by {some(result.cases, 3)}; it is in {', '.join(mutant.expected)}"


def _grouped(mutant: AuditedMutant, outcomes: Collection[str]) -> Iterator[Unseen]:
    """The results of these outcomes, those of one reason together."""
    results = [result for result in mutant.results if result.outcome in outcomes]
    for outcome, reason in dict.fromkeys((result.outcome, result.reason) for result in results):
        alike = [result for result in results if (result.outcome, result.reason) == (outcome, reason)]
        where = tuple(result.precision for result in alike)
        yield Unseen(mutant, outcome, where, reason or "", alike[-1].remedy)


def _reason(unseen: Unseen) -> tuple[str, Text]:
    """The mutant; and outcome, precisions where it is not all of them, reason and remedy, in a sentence."""
    where = "" if len(unseen.precisions) == len(unseen.mutant.results) else f" at {', '.join(unseen.precisions)}"
    remedy = f"; would be caught by {unseen.remedy}" if unseen.remedy else ""
    return unseen.mutant.id, f"{unseen.outcome}{where}: {unseen.reason}{remedy}"


def _score(audit: Audit, folded: bool | None) -> Iterator[Block]:
    yield Table(("mutants", *audit.scores), tuple(_score_rows(audit)), "score", SCORE)
    if not folded:
        weakest = Facts(tuple((precision, _weakest(audit, precision)) for precision in audit.scores))
        overlooked = Facts(tuple((precision, _overlooked(audit, precision)) for precision in audit.scores))
        yield Section("Weakest catches, in multiples of the limit", (weakest,))
        yield Section("What the usual criteria would let through", (overlooked,))
    sanity = Facts(tuple((precision, _sanity(score)) for precision, score in audit.scores.items()))
    yield Section("Before any mutant", (sanity,), folded=folded)


def _score_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """What the goldens catch and what the usual criteria catch: a label, and a cell per precision."""
    scores = tuple(audit.scores.values())
    yield "that are bugs here", *(f"{score.visible}" for score in scores)
    yield "caught by the goldens", *(_share(score.caught, score.visible) for score in scores)
    yield "  and the operation named", *(_share(score.named, score.visible) for score in scores)
    yield "equivalent", *(f"{score.equivalent}" for score in scores)
    yield "refused", *(f"{score.refused}" for score in scores)
    for name in criteria(audit):
        yield f"caught by {name}", *(_rejected(score, name) for score in scores)


def _share(part: int, whole: int) -> str:
    """`3 (75%)`."""
    return f"{part} ({part / whole:.0%})" if whole else f"{part}"


def _rejected(score: Score, name: str) -> str:
    if name not in score.criteria:
        return "not computed"
    alarm = ", rejects the right decoder too" if name in score.false_alarms else ""
    return _share(score.criteria[name], score.visible) + alarm


def _weakest(audit: Audit, precision: str) -> Text:
    """The catches with the smallest margins, in multiples of the limit, smallest first."""
    caught = [(at_precision(mutant, precision), mutant.id) for mutant in audit.mutants]
    margins = sorted((r.margin, name) for r, name in caught if r.outcome == "caught" and r.margin is not None)
    said: list[str | Span] = []
    for margin, name in margins[:WEAKEST]:
        said += [", " * bool(said), code(name), f" {number(margin)}"]
    return tuple(said) or "none"


def _overlooked(audit: Audit, precision: str) -> str:
    """The mutants that are caught, and whose logits pass every usual criterion that passes the right decoder."""
    alarms = audit.scores[precision].false_alarms
    results = [(mutant.id, at_precision(mutant, precision)) for mutant in audit.mutants]
    caught = [(name, result.criteria) for name, result in results if result.outcome == "caught"]
    names = [name for name, rejecting in caught if all(criterion in alarms for criterion in rejecting)]
    which = f": {', '.join(names)}" if names else ""
    return f"{len(names)} of those caught here pass every criterion that passes the right decoder{which}"


def _sanity(score: Score) -> str:
    """The two phases that come before any mutant."""
    return (
        f"the right decoder passes {counted(score.comparisons, 'comparison')} (at most {score.right:.2g} of the "
        f"limit), a forced failure fails all of {score.forced:,}"
    )
