"""What the views of an audit say, as text: headline, sanity, scores, blind spots with reasons, weakest catches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from harness.report.audit_document import BLIND, Audit, AuditedMutant, AuditResult, Score
from harness.report.wording import counted, some

WEAKEST = 5
NO_BUG = ("equivalent", "refused")


@dataclass(frozen=True)
class Family:
    """The mutants of one family: by precision, how many are caught, caught and named, and bugs here."""

    name: str
    mutants: tuple[AuditedMutant, ...]
    tallies: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Unseen:
    """A mutant that is not caught, at the precisions for which the reason is the same."""

    mutant: AuditedMutant
    outcome: str
    precisions: tuple[str, ...]
    reason: str
    remedy: str | None


def headline(audit: Audit) -> tuple[str, str]:
    """SEES or BLIND, and of how many mutants."""
    count = len(audit.mutants)
    if audit.verdict == "sees":
        return "SEES", f"every mutant that is a bug here, of {count} that were asked for"
    return "BLIND", f"to {len(audit.blind)} of {count} mutants"


def sanity(score: Score) -> str:
    """The two phases that come before any mutant."""
    return (
        f"the right decoder passes {counted(score.comparisons, 'comparison')} (at most {score.right:.2g} of the "
        f"limit), a forced failure fails all of {score.forced:,}"
    )


def share(part: int, whole: int) -> str:
    """`3 (75%)`."""
    return f"{part} ({part / whole:.0%})" if whole else f"{part}"


def score_rows(audit: Audit) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the goldens catch and what the usual criteria catch: a label, and a cell per precision."""
    scores = tuple(audit.scores.values())
    yield "that are bugs here", tuple(f"{score.visible}" for score in scores)
    yield "caught by the goldens", tuple(share(score.caught, score.visible) for score in scores)
    yield "  and the operation named", tuple(share(score.named, score.visible) for score in scores)
    yield "equivalent", tuple(f"{score.equivalent}" for score in scores)
    yield "refused", tuple(f"{score.refused}" for score in scores)
    for name in criteria(audit):
        yield f"caught by {name}", tuple(_rejected(score, name) for score in scores)


def criteria(audit: Audit) -> tuple[str, ...]:
    """The usual criteria that this audit computed, in its order."""
    return tuple(dict.fromkeys(name for score in audit.scores.values() for name in score.criteria))


def _rejected(score: Score, name: str) -> str:
    if name not in score.criteria:
        return "not computed"
    alarm = ", rejects the right decoder too" if name in score.false_alarms else ""
    return share(score.criteria[name], score.visible) + alarm


def families(audit: Audit) -> Iterator[Family]:
    """The sections of the catalogue that were audited, in its order."""
    for name in dict.fromkeys(mutant.family for mutant in audit.mutants):
        mutants = tuple(mutant for mutant in audit.mutants if mutant.family == name)
        yield Family(name, mutants, tuple(_tally(mutants, precision) for precision in audit.scores))


def _tally(mutants: Collection[AuditedMutant], precision: str) -> tuple[int, int, int]:
    found = [at(mutant, precision) for mutant in mutants]
    visible = sum(r.outcome in (*BLIND, "caught") for r in found)
    return sum(r.outcome == "caught" for r in found), sum(r.named for r in found), visible


def blind_spots(audit: Audit) -> Iterator[Unseen]:
    """The mutants that no precision catches, with the reasons."""
    for mutant in audit.mutants:
        if mutant.id in audit.blind:
            yield from _grouped(mutant, BLIND)


def missed(audit: Audit, precision: str) -> Iterator[Unseen]:
    """The mutants that this precision does not catch and another one does."""
    for mutant in audit.mutants:
        if mutant.id not in audit.blind and at(mutant, precision).outcome in BLIND:
            yield next(unseen for unseen in _grouped(mutant, BLIND) if precision in unseen.precisions)


def no_bugs(audit: Audit) -> Iterator[Unseen]:
    """What is equivalent or refused, and is therefore counted neither as caught nor as missed."""
    for mutant in audit.mutants:
        yield from _grouped(mutant, NO_BUG)


def _grouped(mutant: AuditedMutant, outcomes: Collection[str]) -> Iterator[Unseen]:
    """The results of these outcomes, those of one reason together."""
    found = [result for result in mutant.results if result.outcome in outcomes]
    for outcome, reason in dict.fromkeys((result.outcome, result.reason) for result in found):
        alike = [result for result in found if (result.outcome, result.reason) == (outcome, reason)]
        where = tuple(result.precision for result in alike)
        yield Unseen(mutant, outcome, where, reason or "", alike[-1].remedy)


def why(unseen: Unseen) -> str:
    """Outcome, precisions where it is not all of them, reason and remedy, in a sentence."""
    where = "" if len(unseen.precisions) == len(unseen.mutant.results) else f" at {', '.join(unseen.precisions)}"
    remedy = f"; would be caught by {unseen.remedy}" if unseen.remedy else ""
    return f"{unseen.outcome}{where}: {unseen.reason}{remedy}"


def unnamed(audit: Audit, precision: str) -> Iterator[tuple[AuditedMutant, str]]:
    """The mutants that are caught, but not at the operation where they are and there alone."""
    for mutant in audit.mutants:
        result = at(mutant, precision)
        if result.outcome == "caught" and not result.named:
            by = some(result.cases, 3)
            yield mutant, f"{found_at(result)}, by {by}; it is in {', '.join(mutant.expected)}"


def found_at(result: AuditResult) -> str:
    """Where replay finds a mutant that is caught."""
    return f"introduced at {', '.join(result.introduced)}" if result.introduced else "in the forward pass only"


def weakest(audit: Audit, precision: str) -> list[tuple[float, str]]:
    """The catches with the smallest margins, in multiples of the limit, smallest first."""
    caught = [(at(mutant, precision), mutant.id) for mutant in audit.mutants]
    margins = sorted((r.margin, name) for r, name in caught if r.outcome == "caught" and r.margin is not None)
    return margins[:WEAKEST]


def overlooked(audit: Audit, precision: str) -> Iterator[str]:
    """The mutants that are caught, and whose logits pass every usual criterion that passes the right decoder."""
    alarms = audit.scores[precision].false_alarms
    for mutant in audit.mutants:
        result = at(mutant, precision)
        if result.outcome == "caught" and all(name in alarms for name in result.criteria):
            yield mutant.id


def cases(audit: Audit) -> tuple[str, str]:
    """The cases that are needed, and those that are not, in a sentence each."""
    return (
        f"these {len(audit.needed)} catch and name all that is caught and named: "
        f"{', '.join(audit.needed) or 'none'}",
        f"the other {len(audit.spare)} add nothing for the arithmetic (they may be there for their tokens): "
        f"{', '.join(audit.spare) or 'none'}",
    )


def at(mutant: AuditedMutant, precision: str) -> AuditResult:
    """A mutant's result at one precision."""
    return next(result for result in mutant.results if result.precision == precision)
