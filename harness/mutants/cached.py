"""Mutants on cases with a KV cache: several calls, checked one case at a time as `goldens check` does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.golden import CaseEntry
from harness.mutants.criteria import LogitFigures, figures_of
from harness.mutants.mutant import Mutant
from harness.mutants.planting import loader
from harness.mutants.sanity import FORCED_FAILURE, RIGHT, first_line, must_fail, must_pass
from harness.mutants.subject import Sight, Subject, Trial, sight_of
from harness.results import TapResult
from harness.run.checker import Checker
from harness.run.progress import Progress
from harness.run.question import BOTH, Question


def run_cached(
    golden: Path | str,
    checkpoint: Path,
    cases: Sequence[CaseEntry],
    precision: str,
    mutants: Sequence[Mutant],
    progress: Progress,
) -> Trial:
    """Run the right decoder and every mutant on cases with a cache, at one precision.

    Raises:
        PortError: one of the two sanity phases failed, as in `harness.mutants.trial.run_trial`.
    """
    # Against the golden alone: an operation that is wrong in both of a port's ways is one that they agree in.
    question = Question((precision,), BOTH, cases=tuple(case.name for case in cases))
    entries = {case.name: case for case in cases}

    def sights(results: Sequence[TapResult]) -> list[Sight]:
        return [sight_of(result, entries[result.case]) for result in results]

    # Golden and checkpoint are verified once for all mutants, and every port is ours.
    with Checker(golden, checkpoint, RIGHT.id, question, load=loader(RIGHT), inspect=False) as checker:

        def run(mutant: Mutant) -> list[TapResult]:
            checker.exchange(loader(mutant))
            return checker.run(precision)

        progress.begin(f"{precision}: cases with a cache", len(mutants))
        right = {(r.case, r.mode, r.tap): r for r in run(RIGHT)}
        must_pass(sights(list(right.values())), precision)
        failures = sights([result for result in run(FORCED_FAILURE) if result.mode == "replay"])
        must_fail(sights(list(right.values())), failures, precision)
        subjects = []
        for mutant in mutants:
            one = Subject(mutant, [])
            try:
                results = run(mutant)
                one.sights = sights([r for r in results if r != right.get((r.case, r.mode, r.tap))])
                one.logits = _logits(results)
            except Exception as error:
                one.refusal = first_line(error)
            subjects.append(one)
            progress.advance(mutant.id)
        clean = Subject(RIGHT, [], sights=sights(list(right.values())), logits=_logits(list(right.values())))
        return Trial(clean, subjects, len(failures))


def _logits(results: Sequence[TapResult]) -> dict[str, LogitFigures]:
    found = {r.case: figures_of(r) for r in results if r.mode == "forward" and r.tap == "logits"}
    return {case: figures for case, figures in found.items() if figures is not None}
