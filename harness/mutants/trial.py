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
from harness.mutants.batches import Batch
from harness.mutants.mutant import Mutant
from harness.mutants.sanity import FORCED_FAILURE, RIGHT, first_line, must_fail, must_pass
from harness.mutants.stage import StageTrial
from harness.mutants.subject import EMBED, HEAD, Subject, Trial, subject
from harness.run import precision as precisions
from harness.run.progress import SILENT, Progress
from harness.run.source import GoldenSource
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
            must_pass(right, source.precision)
            failures = trial.observe_replay(forced)
            must_fail(right, failures, source.precision)
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
        return Subject(mutant, [], refusal=first_line(error))


def _observe(trial: StageTrial, one: Subject) -> None:
    """Take a mutant through a stage. What it raises is its own refusal: a bug that needs no golden to be seen."""
    if one.refusal is not None:
        return
    try:
        trial.observe(one)
    except Exception as error:
        one.refusal = first_line(error)
