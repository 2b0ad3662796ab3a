"""An audit as plain data: which known bugs a golden can see, and which cases see them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from harness.logits import Continuation
from harness.report.document import GoldenReference, LimitEntry

# caught: a check of a port with this bug would diverge.
# survived: it changes values, but no comparison leaves its limit.
# unreachable: it changes no bit on any case, for want of an input or of weights that would show it.
# equivalent: in this architecture, or at this precision, it computes the same function.
# refused: it cannot be run at all, so that nobody needs a golden to see it.
Outcome = Literal["caught", "survived", "unreachable", "equivalent", "refused"]
BLIND: tuple[Outcome, ...] = ("survived", "unreachable")
# The criterion that looks at no logits: the tokens that a port writes by itself are the reference's, ties aside.
GREEDY = "greedy tokens"


@dataclass(frozen=True)
class AuditResult:
    """One mutant at one precision.

    Attributes:
        named: whether replay finds it at the operations where it is, and nowhere else.
        introduced: where replay finds it: kinds of taps, over the cases recorded at every operation.
        cases: those that catch it, in the golden's order; `naming` are those that also name the operation.
        margin: the largest noise multiple, rms or max, divided by its limit; None where a value is not finite or
            not there. `rms_multiple` is the largest rms multiple itself.
        compared: how many comparisons it changes by a bit or more.
        criteria: the usual criteria that reject its logits or its tokens.
        reason: why it is not caught.
        remedy: what would catch it.
        generations: what it writes by itself, up to the first token that the reference did not write.
    """

    precision: str
    outcome: Outcome
    named: bool
    introduced: tuple[str, ...]
    cases: tuple[str, ...]
    naming: tuple[str, ...]
    margin: float | None
    rms_multiple: float | None
    compared: int
    criteria: tuple[str, ...]
    reason: str | None = None
    remedy: str | None = None
    generations: tuple[Continuation, ...] = ()


@dataclass(frozen=True)
class AuditedMutant:
    """One mutant of the catalogue.

    Attributes:
        expected: the kinds of taps at which replay must find it.
        at_logits: why logits cannot show it, where they cannot.
        seen: where it was reported.
    """

    id: str
    family: str
    kind: Literal["operation", "numerics", "weight", "config", "option", "call"]
    wrong: str
    right: str
    expected: tuple[str, ...]
    at_logits: str
    seen: tuple[str, ...]
    results: tuple[AuditResult, ...]


@dataclass(frozen=True)
class Score:
    """What was caught at one precision.

    Attributes:
        visible: mutants that are neither equivalent nor refused.
        criteria: how many mutants each of the usual criteria rejects, by its name; `GREEDY` is among them where
            the golden holds a generation.
        false_alarms: the criteria that reject the right decoder as well.
        right: the right decoder's largest multiple divided by its limit.
        comparisons: of the right decoder, all of which match.
        forced: comparisons of the forced failure, all of which diverge.
    """

    visible: int
    caught: int
    named: int
    equivalent: int
    refused: int
    criteria: dict[str, int]
    false_alarms: tuple[str, ...]
    right: float
    comparisons: int
    forced: int


@dataclass(frozen=True)
class Audit:
    """What a golden can see.

    Attributes:
        verdict: `sees` where every mutant that is a bug here is caught at some precision asked for, else `blind`.
        scores: by precision.
        blind: the mutants that no precision catches.
        needed: a smallest set of cases that catches and names all that the golden's cases catch and name.
        spare: the cases beyond those, which may be there for their tokens.
        not_covered: what this audit says nothing about.
    """

    schema: Literal[1]
    kind: Literal["audit"]
    golden: GoldenReference
    environment: dict[str, Any]
    verdict: Literal["sees", "blind"]
    limits: dict[str, LimitEntry]
    scores: dict[str, Score]
    blind: tuple[str, ...]
    needed: tuple[str, ...]
    spare: tuple[str, ...]
    not_covered: tuple[str, ...]
    mutants: tuple[AuditedMutant, ...]


def is_blind(results: Iterable[AuditResult]) -> bool:
    """Whether a mutant is a bug at some precision and is caught at none."""
    outcomes = {result.outcome for result in results}
    return not outcomes.isdisjoint(BLIND) and "caught" not in outcomes


@dataclass(frozen=True)
class Topic:
    """The mutants of one topic: by precision, how many are caught, caught and named, and bugs here."""

    name: str
    mutants: tuple[AuditedMutant, ...]
    tallies: tuple[tuple[int, int, int], ...]


def criteria(audit: Audit) -> tuple[str, ...]:
    """The usual criteria that this audit computed, in its order."""
    return tuple(dict.fromkeys(name for score in audit.scores.values() for name in score.criteria))


def topics(audit: Audit) -> Iterator[Topic]:
    """The sections of the catalogue that were audited, in its order."""
    for name in dict.fromkeys(mutant.family for mutant in audit.mutants):
        mutants = tuple(mutant for mutant in audit.mutants if mutant.family == name)
        yield Topic(name, mutants, tuple(_tally(mutants, precision) for precision in audit.scores))


def _tally(mutants: Collection[AuditedMutant], precision: str) -> tuple[int, int, int]:
    results = [at_precision(mutant, precision) for mutant in mutants]
    visible = sum(r.outcome in (*BLIND, "caught") for r in results)
    return sum(r.outcome == "caught" for r in results), sum(r.named for r in results), visible


def at_precision(mutant: AuditedMutant, precision: str) -> AuditResult:
    """A mutant's result at one precision."""
    return next(result for result in mutant.results if result.precision == precision)
