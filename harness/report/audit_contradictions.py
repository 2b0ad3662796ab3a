"""Where a saved audit says two things. Its scores are counted again from its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from harness.report.audit_document import BLIND, Audit, AuditedMutant, AuditResult, Score, is_blind

Contradiction = tuple[str, object, object]


def contradictions(audit: Audit) -> Iterator[Contradiction]:
    """(where, expected, found) for each."""
    for name, count in Counter(mutant.id for mutant in audit.mutants).items():
        if count > 1:
            yield f"mutant {name}", "one entry", f"{count} entries"
    for mutant in audit.mutants:
        precisions = tuple(result.precision for result in mutant.results)
        if precisions != tuple(audit.scores):
            yield f"mutant {mutant.id}", f"results at {_names(audit.scores)}", f"results at {_names(precisions)}"
            return  # what follows looks results up by precision
    for precision in audit.scores:
        if precision not in audit.limits:
            yield f"limits: {precision}", "the limits that were in force", "none"
    for mutant in audit.mutants:
        for result in mutant.results:
            yield from _of_result(audit, mutant, result)
    for index, (precision, score) in enumerate(audit.scores.items()):
        yield from _of_score(precision, score, [mutant.results[index] for mutant in audit.mutants])
    blind = tuple(mutant.id for mutant in audit.mutants if is_blind(mutant.results))
    if audit.blind != blind:
        yield "blind", _names(blind), _names(audit.blind)
    if audit.verdict != ("blind" if blind else "sees"):
        yield "verdict", "blind" if blind else "sees", audit.verdict
    both = [case for case in audit.needed if case in audit.spare]
    if both:
        yield "needed, spare", "no case in both", _names(both)


def _of_result(audit: Audit, mutant: AuditedMutant, result: AuditResult) -> Iterator[Contradiction]:
    place = f"mutant {mutant.id} at {result.precision}"
    caught = result.outcome == "caught"
    if caught != bool(result.cases):
        yield place, "cases that catch it, where it is caught and only there", f"{len(result.cases)} cases"
    if caught != (result.reason is None):
        yield place, "a reason, where it is not caught and only there", result.reason
    if not caught and (result.named or result.naming or result.introduced):
        yield place, "nothing named, since it is not caught", "an operation that is named"
    strangers = [case for case in result.naming if case not in result.cases]
    if strangers:
        yield place, "naming cases among those that catch it", _names(strangers)
    if result.margin is not None and caught != (result.margin > 1):
        expected = f"a margin {'above' if caught else 'of at most'} 1, since it is {result.outcome}"
        yield place, expected, result.margin
    if caught and not set(result.cases) & set(audit.needed):
        yield place, "a needed case among those that catch it", _names(result.cases)


def _of_score(precision: str, score: Score, results: list[AuditResult]) -> Iterator[Contradiction]:
    outcomes = Counter(result.outcome for result in results)
    counted = {
        "visible": outcomes["caught"] + sum(outcomes[outcome] for outcome in BLIND),
        "caught": outcomes["caught"],
        "named": sum(result.named for result in results),
        "equivalent": outcomes["equivalent"],
        "refused": outcomes["refused"],
    }
    for name, expected in counted.items():
        if getattr(score, name) != expected:
            yield f"score at {precision}: {name}", expected, getattr(score, name)
    if score.right > 1:
        yield f"score at {precision}: right", "at most 1, since the right decoder passes", score.right
    for name, count in score.criteria.items():
        visible = [result for result in results if result.outcome in (*BLIND, "caught")]
        expected = sum(name in result.criteria for result in visible)
        if count != expected:
            yield f"score at {precision}: {name}", expected, count


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
