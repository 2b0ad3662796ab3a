"""From what was seen of a mutant to its outcome, and to the reason where it was not caught."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.mutants.criteria import says_no
from harness.mutants.mutant import Mutant
from harness.mutants.needs import CaseFacts, ModelFacts, Need
from harness.mutants.runs import Deviation, MutantRun
from harness.report.audit_document import AuditResult, Outcome
from harness.results import finite, is_wrong
from harness.taps import kind_of

WRONG_VALUE = ("diverged", "nonfinite")
OUTSIDE_LAYERS = frozenset({"embed", "final_norm", "logits"})


@dataclass(frozen=True)
class Facts:
    """What an audit knows of its inputs and of the checkpoint."""

    cases: Sequence[CaseFacts]
    model: ModelFacts


def not_planted(precision: str, reason: str) -> AuditResult:
    """The result of a mutant that is no bug in this architecture."""
    return AuditResult(precision, "equivalent", False, (), (), (), 0.0, 0.0, 0, (), reason)


def judge(run: MutantRun, precision: str, facts: Facts) -> AuditResult:
    """The outcome of a mutant at one precision."""
    if run.refusal is not None:
        return AuditResult(precision, "refused", False, (), (), (), None, None, 0, (), run.refusal)
    wrong = [seen for seen in run.deviations if is_wrong(seen.verdict)]
    margin = max((seen.margin for seen in run.deviations), default=0.0)
    unmet = () if wrong else tuple(_unmet(run.mutant, precision, facts))
    outcome = _outcome(wrong, run.deviations, unmet)
    naming = tuple(case for case in _cases(wrong) if _is_named(run.mutant, facts, _replayed(wrong, case)))
    return AuditResult(
        precision=precision,
        outcome=outcome,
        named=_is_named(run.mutant, facts, _replayed(wrong)),
        introduced=tuple(dict.fromkeys(kind_of(seen.tap) for seen in _replayed(wrong))),
        cases=_cases(wrong),
        naming=naming,
        margin=finite(margin),
        rms_multiple=finite(max((seen.rms for seen in run.deviations), default=0.0)),
        compared=len(run.deviations),
        criteria=says_no(list(run.logits.values()), run.generations),
        reason=_reason(outcome, margin, unmet),
        remedy=next((need.remedy for need in unmet if need.remedy), None),
        generations=tuple(run.generations),
    )


def _outcome(wrong: Sequence[Deviation], changed: Sequence[Deviation], unmet: Sequence[Need]) -> Outcome:
    if wrong:
        return "caught"
    if any(need.of == "precision" for need in unmet):
        return "equivalent"
    return "survived" if changed else "unreachable"


def _reason(outcome: Outcome, margin: float, unmet: Sequence[Need]) -> str | None:
    if outcome == "caught":
        return None
    if unmet:
        return "; ".join(dict.fromkeys(need.lacking for need in unmet))
    if outcome == "survived":
        return f"below this precision's rounding: at most {margin:.2g} of the limit"
    return "it changes no bit on any case, and no need of it is known to be unmet"


def _unmet(mutant: Mutant, precision: str, facts: Facts) -> Iterable[Need]:
    """The needs that explain why a mutant was not caught; one case has to meet all needs of cases at once."""
    of_cases = [need for need in mutant.needs if need.of == "case"]
    if not any(all(need.holds(case) for need in of_cases) for case in facts.cases):
        alone = [need for need in of_cases if not any(need.holds(case) for case in facts.cases)]
        yield from alone or of_cases
    for need in mutant.needs:
        if need.of == "checkpoint" and not need.holds(facts.model):
            yield need
        if need.of == "precision" and not need.holds(precision):
            yield need
        if need.of == "values":
            yield need


def _replayed(wrong: Iterable[Deviation], case: str | None = None) -> list[Deviation]:
    """What replay finds wrong by itself, in cases that were recorded at every operation."""
    return [
        seen
        for seen in wrong
        if seen.mode == "replay" and seen.complete and seen.verdict in WRONG_VALUE and case in (None, seen.case)
    ]


def _is_named(mutant: Mutant, facts: Facts, introduced: Sequence[Deviation]) -> bool:
    """Whether replay finds the mutant where it is, and nowhere else."""
    layers = mutant.in_layers(facts.model.architecture.layers)
    expected = {kind for kind in mutant.introduced if kind in OUTSIDE_LAYERS}
    expected |= {f"layers.{i}.{kind}" for i in layers for kind in mutant.introduced - OUTSIDE_LAYERS}
    taps = {seen.tap for seen in introduced}
    return bool(taps) and taps <= expected


def _cases(wrong: Iterable[Deviation]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(seen.case for seen in wrong))
