"""Every mutant at one precision, in one pass: stage by stage, and within a stage mutant by mutant.

In replay a stage hangs on golden inputs alone, so that a mutant is run only in the stages that it changes. Weights
and golden taps of a stage are read once for all mutants and dropped after it.

Two phases in every stage come first: the right decoder must pass, and a forced failure must fail at every tap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness.architecture import Config
from harness.errors import PortError
from harness.golden import CaseEntry
from harness.mutants.batches import CaseBatch
from harness.mutants.bench import Bench, stages_of
from harness.mutants.eager import Eager
from harness.mutants.mutant import Around, Mutant, OperationChange
from harness.mutants.planting import load_mutants, placed
from harness.mutants.runs import Deviation, MutantRun, Trial
from harness.mutants.stage import StageTrial
from harness.results import is_wrong
from harness.run import precision as precisions
from harness.run.generation import continue_greedily
from harness.run.progress import SILENT, Progress
from harness.store import Golden
from harness.tolerances import Limit

# Each makes the value of a tap by itself; what the others make flows into these.
LAST_BEFORE_A_TAP = (
    *("embed", "attn_norm", "linear", "q_norm", "k_norm", "grow_q", "grow_k", "write_k", "write_v"),
    *("rotate_q", "rotate_k"),
    *("q_latent_norm", "kv_latent_norm", "write_latent", "write_k_pe"),
    *("probabilities", "context", "attn_post_norm", "attn_residual", "parallel_residual"),
    *("router", "corrected", "dense", "experts_out", "shared_act", "experts_sum"),
    *("mlp_norm", "gated", "activated", "mlp_post_norm", "mlp_residual", "final_norm", "head"),
)


def _doubled(operation: Callable[..., Any]) -> Callable[..., Any]:
    # In numpy: JAX would compile a product and a sum for every shape there is.
    return lambda *args: jax.device_put(2 * np.asarray(operation(*args)) + 1)


RIGHT = Mutant("right", wrong="f(x)", right="f(x)", introduced=frozenset(), change=OperationChange({}))
FORCED_FAILURE = Mutant(
    "forced_failure",
    wrong="2 f(x) + 1 at every tap",
    right="f(x)",
    introduced=frozenset(),
    change=OperationChange(dict.fromkeys(LAST_BEFORE_A_TAP, Around(_doubled))),
)


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
        right = [clean, *([_ready(RIGHT, bench, batches, exact=True)] if any(run.exact for run in runs) else [])]
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
            for run in runs:
                if run.refusal is None:
                    with _refusing(run):
                        trial.observe(run)
                progress.advance(run.mutant.id)
    return Trial(clean, runs, forced_failures)


def _ready(mutant: Mutant, bench: Bench, batches: Sequence[CaseBatch], exact: bool) -> MutantRun:
    """A mutant (or the right decoder) ready to be run.

    Args:
        exact: whether masks are computed at exact lengths: see `batches.at_exact_lengths`.

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


@contextlib.contextmanager
def _refusing(run: MutantRun) -> Iterator[None]:
    """What a mutant raises is its own refusal: a bug that needs no golden to be seen."""
    try:
        yield
    except Exception as error:
        run.refusal = first_line(error)


def must_pass(comparisons: Sequence[Deviation], precision: str) -> None:
    """The first phase.

    Raises:
        PortError: a comparison of the right decoder does not match.
    """
    wrong = [seen for seen in comparisons if is_wrong(seen.verdict)]
    if wrong:
        worst = max(wrong, key=lambda seen: seen.margin)
        problem = "the right decoder does not match the golden: no mutant can be judged by it"
        where = f"{worst.tap} in case {worst.case}, {precision}, {worst.mode}: {worst.verdict}"
        hint = "`goldens check` with the same golden and weights must pass first"
        raise PortError(problem, where, "within the limit", f"{worst.margin:.2g} times the limit", hint=hint)


def must_fail(comparisons: Sequence[Deviation], failures: Sequence[Deviation], precision: str) -> None:
    """The second phase; of the forced failure, what did not change at all is not there.

    Raises:
        PortError: a comparison that replay makes of the right decoder does not fail.
    """
    failed = {(seen.case, seen.tap) for seen in failures if is_wrong(seen.verdict)}
    passed = [s for s in comparisons if s.mode == "replay" and (s.case, s.tap) not in failed]
    if passed:
        problem = "a forced failure passes: at this tap nothing would be caught"
        where = f"{passed[0].tap} in case {passed[0].case}, {precision}"
        expected = "2 f(x) + 1 in the place of f(x) to diverge"
        hint = "look at the noise that this golden records: `goldens show GOLDEN`"
        raise PortError(problem, where, expected, f"{len(passed)} comparisons that match", hint=hint)


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
        for run in runs:
            if run.refusal is None:
                with _refusing(run):
                    port = Eager(load_mutants([run.mutant], checkpoint, config, precisions.jax_dtype(precision)))
                    run.generations += [continue_greedily(port, golden, case, precision) for case in cases]
            progress.advance(run.mutant.id)


def first_line(error: Exception) -> str:
    """What a mutant raised, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
