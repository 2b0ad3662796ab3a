"""What mutants write by themselves, beside what the reference wrote: what a comparison of texts would notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.architecture import Config
from harness.golden import CaseEntry
from harness.mutants.eager import Eager
from harness.mutants.planting import load_mutant
from harness.mutants.runs import MutantRun
from harness.mutants.sanity import first_line
from harness.run import precision as precisions
from harness.run.generation import continue_greedily
from harness.run.progress import Progress
from harness.store import Golden


def write_on(
    golden: Golden,
    checkpoint: Path,
    config: Config,
    cases: Sequence[CaseEntry],
    precision: str,
    runs: Sequence[MutantRun],
    progress: Progress,
) -> None:
    """Let every mutant generate, as a check lets a port, and add what it wrote to its `generations`.

    It writes no further than its first token that the reference did not write, so that most are done soon. What it
    raises is its own refusal.

    Args:
        cases: those with a recorded generation.
    """
    progress.begin(f"{precision}: generation", len(runs))
    with precisions.in_force(precision):
        for one in runs:
            if one.refusal is None:
                try:
                    port = Eager(load_mutant(one.mutant, checkpoint, config, precisions.jax_dtype(precision)))
                    one.generations += [continue_greedily(port, golden, case, precision) for case in cases]
                except Exception as error:
                    one.refusal = first_line(error)
            progress.advance(one.mutant.id)
