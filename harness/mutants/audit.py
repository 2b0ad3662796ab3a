"""The audit: golden + catalogue -> which known bugs this golden can see, and which cases see them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness import embedded
from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.mutants.applies import not_here
from harness.mutants.batches import batches
from harness.mutants.bench import Bench
from harness.mutants.catalogue import TOPICS
from harness.mutants.cover import smallest_cover
from harness.mutants.criteria import CRITERIA, says_no
from harness.mutants.judgement import Facts, judge, not_planted
from harness.mutants.mutant import Mutant
from harness.mutants.needs import case_facts, model_facts
from harness.mutants.runs import MutantRun, Trial
from harness.mutants.trial import RIGHT, run_trial, write_on
from harness.report.audit_document import BLIND, GREEDY, Audit, AuditedMutant, AuditResult, Score, is_blind
from harness.report.document import LimitEntry
from harness.run import precision as precisions
from harness.run.preflight import preflight
from harness.run.progress import SILENT, Progress
from harness.run.question import Question, select_cases
from harness.run.reporting import environment, reference
from harness.run.source import GoldenSource
from harness.selecting import select
from harness.store import open_golden
from harness.tolerances import PRECISIONS

Catalogue = Mapping[str, Sequence[Mutant]]


@dataclass(frozen=True)
class AuditQuestion:
    """What is asked of a golden.

    Attributes:
        precisions: any of float64, float32, bfloat16.
        mutants, cases: glob patterns; none means all.
    """

    precisions: tuple[str, ...] = ("float64", "float32")
    mutants: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()


STANDARD = AuditQuestion()


def audit(
    golden_path: Path | str,
    checkpoint: Path | None = None,
    question: AuditQuestion = STANDARD,
    *,
    catalogue: Catalogue = TOPICS,
    progress: Progress = SILENT,
) -> Audit:
    """Plant every mutant in the built-in decoder and check it against a golden.

    Args:
        golden_path: a golden, HDF5 or Zarr.
        checkpoint: the directory of the weights that it was recorded with; None means beside the golden, by the
            model's name.
        question: what is asked.
        catalogue: mutants by family.
        progress: told what is being done, mutant by mutant.

    Raises:
        HarnessError: something could not be audited; also where the right decoder does not pass, or where a
            forced failure does.
    """
    asked = Question(precisions=question.precisions, cases=question.cases)
    asked.check()
    for precision in question.precisions:
        precisions.refuse_reduced(precision)
    chosen = select_mutants(catalogue, question.mutants)
    progress.begin("config, weights, token ids")
    with open_golden(golden_path) as golden:
        asked = asked.carried_by(golden.manifest.truth_dtype)
        question = replace(question, precisions=asked.precisions)
        cases = select_cases(golden.manifest.cases, question.cases)
        refuse_without_logits(golden.path, cases)
        weights = checkpoint or embedded.checkpoint_beside(str(golden_path), golden.manifest.model.id)
        config = preflight(golden, weights, cases)
        facts = Facts([case_facts(golden, entry) for entry in cases], model_facts(weights, config))
        whole = [case for case in cases if not case.cached]
        stepped = [case for case in cases if case.cached and not case.generated]
        generated = [case for case in cases if case.generated]

        def compared(precision: str, mutants: Sequence[Mutant]) -> Iterator[Trial]:
            bench = Bench(GoldenSource(golden, precision, keep=sys.maxsize), weights, config)
            through_cache = [mutant for mutant in mutants if mutant.cached]
            at_once = [mutant for mutant in mutants if not mutant.cached]
            if at_once:
                yield run_trial(bench, batches(golden, whole), asked.limit(precision), at_once, progress)
            if through_cache and stepped:
                yield run_trial(bench, batches(golden, stepped), asked.limit(precision), through_cache, progress)
            elif through_cache:
                yield Trial(MutantRun(RIGHT), [MutantRun(mutant) for mutant in through_cache], 0)

        def trials(precision: str, mutants: Sequence[Mutant]) -> list[Trial]:
            observed = list(compared(precision, mutants))
            if observed and generated:
                runs = [observed[0].right, *(run for trial in observed for run in trial.mutants)]
                write_on(golden, weights, config, generated, precision, runs, progress)
            return observed

        ran = {precision: _run(trials, precision, chosen, facts) for precision in question.precisions}
        results = {name: tuple(ran[p].results[name] for p in question.precisions) for name in chosen}
        blind = tuple(name for name, by_precision in results.items() if is_blind(by_precision))
        needed = smallest_cover(_catches([case.name for case in cases], results))
        return Audit(
            schema=1,
            kind="audit",
            golden=reference(golden),
            environment={**environment(), "precision": {p: ran[p].settings for p in question.precisions}},
            verdict="blind" if blind else "sees",
            limits={p: LimitEntry.of(limit) for p, limit in ((p, asked.limit(p)) for p in question.precisions)},
            scores={precision: ran[precision].score for precision in question.precisions},
            blind=blind,
            needed=needed,
            spare=tuple(case.name for case in (*whole, *stepped) if case.name not in needed),
            not_covered=tuple(_not_covered(question, len(chosen), catalogue, cases)),
            mutants=tuple(
                _audited(family, mutant, results[mutant.id])
                for family, mutants in catalogue.items()
                for mutant in mutants
                if mutant.id in chosen
            ),
        )


def refuse_without_logits(path: str, cases: Sequence[CaseEntry]) -> None:
    """Refuse cases that have none: the figures of the usual criteria are of logits.

    Raises:
        UsageError: there is such a case.
    """
    without = [case.name for case in cases if "logits" not in case.taps]
    if without:
        problem = "an audit compares logits, and this golden was recorded without"
        hint = "audit a golden of this model that has them: goldens record with --taps logits as well"
        raise UsageError(problem, path, found=f"no logits in {', '.join(without[:5])}", hint=hint)


@dataclass(frozen=True)
class _Ran:
    """One precision: results by mutant, their score, and what was in force."""

    results: Mapping[str, AuditResult]
    score: Score
    settings: dict[str, object]


def _run(
    trials_of: Callable[[str, Sequence[Mutant]], list[Trial]],
    precision: str,
    chosen: Mapping[str, Mutant],
    facts: Facts,
) -> _Ran:
    """Every mutant that is a bug in this architecture, at one precision."""
    no_bug = {m.id: reason for m in chosen.values() if (reason := not_here(m, facts.model))}
    trials = trials_of(precision, [mutant for name, mutant in chosen.items() if name not in no_bug])
    results = {name: not_planted(precision, reason) for name, reason in no_bug.items()}
    for run in (run for trial in trials for run in trial.mutants):
        results[run.mutant.id] = judge(run, precision, facts)
    with precisions.in_force(precision) as in_force:
        return _Ran(results, _score(list(results.values()), trials), asdict(in_force))


def select_mutants(catalogue: Catalogue, patterns: Sequence[str]) -> dict[str, Mutant]:
    """The mutants whose ids match any of the glob patterns, by id.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    everything = {mutant.id: mutant for mutants in catalogue.values() for mutant in mutants}
    chosen = select(
        everything,
        patterns,
        problem="no mutant of the catalogue matches",
        where="--mutant",
        hint="patterns take * and ?, for example --mutant 'rope_*'",
    )
    return {name: everything[name] for name in chosen}


def _catches(
    cases: Sequence[str], results: Mapping[str, Sequence[AuditResult]]
) -> dict[str, frozenset[tuple[str, ...]]]:
    """By case: (mutant, precision, success): that it was caught, or that its operation was named."""
    return {
        case: frozenset(
            (mutant, result.precision, success)
            for mutant, by_precision in results.items()
            for result in by_precision
            for success, by in (("caught", result.cases), ("named", result.naming))
            if case in by
        )
        for case in cases
    }


def _score(results: Sequence[AuditResult], trials: Sequence[Trial]) -> Score:
    visible = [result for result in results if result.outcome in (*BLIND, "caught")]
    deviations = [seen for trial in trials for seen in trial.right.deviations]
    figures = [figure for trial in trials for figure in trial.right.logits.values()]
    written = [generation for trial in trials for generation in trial.right.generations]
    criteria = (*CRITERIA, GREEDY) if written else CRITERIA
    return Score(
        visible=len(visible),
        caught=sum(result.outcome == "caught" for result in results),
        named=sum(result.named for result in results),
        equivalent=sum(result.outcome == "equivalent" for result in results),
        refused=sum(result.outcome == "refused" for result in results),
        criteria={name: sum(name in result.criteria for result in visible) for name in criteria},
        false_alarms=says_no(figures, written),
        right=max((seen.margin for seen in deviations), default=0.0),
        comparisons=len(deviations),
        forced=sum(trial.forced for trial in trials),
    )


def _audited(family: str, mutant: Mutant, results: Sequence[AuditResult]) -> AuditedMutant:
    return AuditedMutant(
        mutant.id,
        family,
        mutant.kind,
        mutant.wrong,
        mutant.right,
        tuple(sorted(mutant.introduced)),
        mutant.at_logits,
        mutant.seen,
        tuple(results),
    )


def _not_covered(
    question: AuditQuestion, chosen: int, catalogue: Catalogue, cases: Sequence[CaseEntry]
) -> Iterator[str]:
    yield from (f"precision {p}: not asked for" for p in PRECISIONS if p not in question.precisions)
    left = sum(len(mutants) for mutants in catalogue.values()) - chosen
    if left:
        yield f"{left} mutants: not asked for"
    if question.cases:
        yield "cases that were not asked for may catch what survived here"
    if any(case.cached for case in cases):
        yield "bugs that a prompt shows as well, on cases with a KV cache: those run mutants of the cache alone"
    partly = [case.name for case in cases if case.partly]
    if partly:
        names = ", ".join(partly)
        yield f"single operations of cases that recorded some taps alone; their logits are compared: {names}"
    if any(case.top for case in cases):
        yield "logits beside the largest that the golden has: the usual criteria see these alone, and the least KL"
    generated = [case.name for case in cases if case.generated]
    if generated:
        yield f"the logits of a generation, of which the tokens alone are compared: {', '.join(generated)}"
    yield "bugs that are not in the catalogue"
