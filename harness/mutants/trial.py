"""Every mutant at one precision, in one pass: stage by stage, and within a stage mutant by mutant.

In replay a stage hangs on golden inputs alone, so that a mutant is run only in the stages that it changes. Weights
and golden taps of a stage are read once for all mutants and dropped after it. Operations run one by one, without
`jax.jit`: no mutant is compiled, and all share the compiled operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

from harness.architecture import Config
from harness.errors import PortError
from harness.mutants.batches import Batch
from harness.mutants.mutant import Mutant
from harness.mutants.sanity import FORCED_FAILURE, RIGHT
from harness.mutants.stage import StageTrial
from harness.mutants.subject import EMBED, HEAD, Sight, Subject, subject
from harness.run import precision as precisions
from harness.run.progress import SILENT, Progress
from harness.run.session import GoldenSource
from harness.tolerances import Limit


@dataclass(frozen=True, eq=False)
class Bench:
    """What all mutants of an audit share.

    Attributes:
        checkpoint, config: known to be the golden's.
        layers: of the model.
    """

    checkpoint: Path
    config: Config
    batches: Sequence[Batch]
    layers: int

    def subject(self, mutant: Mutant, dtype: jnp.dtype, exact: bool) -> Subject:
        return subject(mutant, self.checkpoint, self.config, dtype, self.batches, exact)


@dataclass(frozen=True, eq=False)
class Trial:
    """What was seen.

    Attributes:
        right: the right decoder, of which every comparison was seen.
        subjects: the mutants, of which only what differs from it was.
        forced: how many comparisons the forced failure failed.
    """

    right: Subject
    subjects: Sequence[Subject]
    forced: int


def run_trial(
    bench: Bench,
    source: GoldenSource,
    limit: Limit,
    mutants: Sequence[Mutant],
    exact: bool,
    progress: Progress = SILENT,
) -> Trial:
    """Run the right decoder and every mutant, at the precision of the source.

    Args:
        exact: whether masks are computed at exact lengths, for all of them: see `exact`.

    Raises:
        PortError: one of the two sanity phases failed: the right decoder does not pass, or a forced failure does.
    """
    dtype = precisions.jax_dtype(source.precision)
    forced_failures = 0
    with precisions.in_force(source.precision):
        clean, forced = (bench.subject(mutant, dtype, exact) for mutant in (RIGHT, FORCED_FAILURE))
        subjects = [_planted(mutant, bench, dtype, exact) for mutant in mutants]
        stages = (EMBED, *range(bench.layers), HEAD)
        for number, stage in enumerate(stages, start=1):
            progress.begin(f"{source.precision}: stage {number} of {len(stages)}", len(subjects))
            trial = StageTrial(source, limit, bench.batches, bench.layers, stage, clean)
            right = trial.observe_right()
            _must_pass(right, source.precision)
            failures = trial.observe_replay(forced)
            _must_fail(right, failures, source.precision)
            clean.sights += right
            forced_failures += len(failures)
            for one in subjects:
                _observe(trial, one)
                progress.advance(one.mutant.id)
            clean.hidden = list(trial.leaving)
    return Trial(clean, subjects, forced_failures)


def _planted(mutant: Mutant, bench: Bench, dtype: jnp.dtype, exact: bool) -> Subject:
    try:
        return bench.subject(mutant, dtype, exact)
    except Exception as error:
        return Subject(mutant, [], refusal=_first_line(error))


def _observe(trial: StageTrial, one: Subject) -> None:
    """Take a mutant through a stage. What it raises is its own refusal: a bug that needs no golden to be seen."""
    if one.refusal is not None:
        return
    try:
        trial.observe(one)
    except Exception as error:
        one.refusal = _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _must_pass(right: Sequence[Sight], precision: str) -> None:
    wrong = [sight for sight in right if sight.verdict != "match"]
    if wrong:
        worst = max(wrong, key=lambda sight: sight.margin)
        raise PortError(
            "the right decoder does not match the golden: no mutant can be judged by it",
            where=f"{worst.tap} in case {worst.case}, {precision}, {worst.mode}: {worst.verdict}",
            expected="within the limit",
            found=f"{worst.margin:.2g} times the limit",
            hint="`goldens check` with the same golden and weights must pass first",
        )


def _must_fail(right: Sequence[Sight], failures: Sequence[Sight], precision: str) -> None:
    """Every comparison that replay makes of the right decoder must fail; what did not change has no sight."""
    failed = {(sight.case, sight.tap) for sight in failures if sight.verdict != "match"}
    passed = [s for s in right if s.mode == "replay" and (s.case, s.tap) not in failed]
    if passed:
        raise PortError(
            "a forced failure passes: at this tap nothing would be caught",
            where=f"{passed[0].tap} in case {passed[0].case}, {precision}",
            expected="2 f(x) + 1 in the place of f(x) to diverge",
            found=f"{len(passed)} comparisons that match",
            hint="look at the noise that this golden records: `goldens show GOLDEN`",
        )
