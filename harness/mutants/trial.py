"""Every mutant at one precision, in one pass: stage by stage, and within a stage mutant by mutant.

In replay a stage hangs on golden inputs alone, so that a mutant is run only in the stages that it changes. Weights
and golden taps of a stage are read once for all mutants and dropped after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.mutants.batches import CaseBatch
from harness.mutants.bench import Bench, stages_of
from harness.mutants.mutant import Mutant, OperationChange
from harness.mutants.planting import placed
from harness.mutants.runs import MutantRun, Trial
from harness.mutants.sanity import FORCED_FAILURE, RIGHT, first_line, must_fail, must_pass
from harness.mutants.stage import StageTrial
from harness.run import precision as precisions
from harness.run.progress import SILENT, Progress
from harness.tolerances import Limit


def run_trial(
    bench: Bench,
    batches: Sequence[CaseBatch],
    limit: Limit,
    mutants: Sequence[Mutant],
    progress: Progress = SILENT,
) -> Trial:
    """Run the right decoder and every mutant, at the precision of the bench.

    Raises:
        PortError: one of the two sanity phases failed: the right decoder does not pass, or a forced failure does.
    """
    precision, forced_failures = bench.source.precision, 0
    with precisions.in_force(precision):
        clean, forced = (_ready(mutant, bench, batches, exact=False) for mutant in (RIGHT, FORCED_FAILURE))
        runs = [_planted(mutant, bench, batches) for mutant in mutants]
        right = [clean, *([_ready(RIGHT, bench, batches, exact=True)] if any(one.exact for one in runs) else [])]
        stages = stages_of(bench.arch.layers)
        for number, stage in enumerate(stages, start=1):
            progress.begin(f"{precision}: stage {number} of {len(stages)}", len(runs))
            trial = StageTrial(bench, limit, batches, stage, right)
            passed = trial.observe_right()
            must_pass(passed, precision)
            failures = trial.observe_replay(forced)
            must_fail(passed, failures, precision)
            clean.deviations += passed
            forced_failures += len(failures)
            for one in runs:
                _observe(trial, one)
                progress.advance(one.mutant.id)
    return Trial(clean, runs, forced_failures)


def _ready(mutant: Mutant, bench: Bench, batches: Sequence[CaseBatch], exact: bool) -> MutantRun:
    """A mutant (or the right decoder) ready to be run.

    Args:
        exact: whether masks are computed at exact lengths: see `exact`.

    Raises:
        CheckpointError: a changed config or parameter that the decoder does not compute.
    """
    everywhere, by_layer = placed([mutant], bench.arch.layers)
    lengths = [batch.lengths if exact else None for batch in batches] or [None]
    made = {own: bench.decoder(everywhere, by_layer, own) for own in dict.fromkeys(lengths)}
    return MutantRun(mutant, [made[own] for own in lengths], exact)


def _planted(mutant: Mutant, bench: Bench, batches: Sequence[CaseBatch]) -> MutantRun:
    """Masks are computed at exact lengths where padding could be seen; call by call there is none."""
    unmasks = isinstance(mutant.change, OperationChange) and mutant.change.unmasks
    try:
        return _ready(mutant, bench, batches, unmasks and not any(batch.cached for batch in batches))
    except Exception as error:
        return MutantRun(mutant, refusal=first_line(error))


def _observe(trial: StageTrial, one: MutantRun) -> None:
    """Take a mutant through a stage. What it raises is its own refusal: a bug that needs no golden to be seen."""
    if one.refusal is not None:
        return
    try:
        trial.observe(one)
    except Exception as error:
        one.refusal = first_line(error)
