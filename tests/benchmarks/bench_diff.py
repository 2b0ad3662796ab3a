"""The figures that a diff's judgement rests on (harness/difference.py).

    python -m tests.benchmarks.bench_diff

How far noise alone moves a multiple: the built-in port as it is, with other instruction sets, and not jitted. How
far mending one of two planted bugs moves an error inherited from the other: every pair that can be planted.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import click

from harness import embedded
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.mutant import Mutant, OperationChange
from harness.mutants.planting import load_mutants
from harness.report.reading import read_report
from harness.results import TapResult
from harness.run.check import check
from harness.run.question import Question

CASES = ("digits", "one-to-five", "multi-token")
GOLDEN, CHECKPOINT = embedded.golden(), embedded.directory() / "qwen2-tiny"
ROUNDINGS = {
    "SSE4.2": {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    "AVX": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX"},
    "not jitted": {"JAX_DISABLE_JIT": "1"},
}
PRECISIONS = "float64,float32,bfloat16"

# One of each operation, and some of the weights: each pair is a check of its own.
IDS = (
    *("eps_1e5", "norm_eps_outside", "rope_interleaved", "theta_1e4", "rope_missing", "rope_missing_on_keys"),
    *("causal_missing", "scale_missing", "gqa_tiled", "q_bias_missing", "k_bias_missing", "v_bias_missing"),
    *("q_transposed", "o_transposed", "activation_gelu", "gate_up_swapped", "attention_residual_missing"),
    *("mlp_residual_halved", "final_norm_missing", "embed_off_by_one", "head_scaled", "layer_repeated"),
)
MUTANTS = tuple(mutant for mutant in CATALOGUE if mutant.id in IDS)
Results = Sequence[TapResult]


def rounded(environment: dict[str, str], cases: Iterable[str] = ()) -> Results:
    """The built-in port's results, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        options = [option for case in cases for option in ("--case", case)]
        command = [sys.executable, "-m", "harness.cli", "check", "--precision", PRECISIONS, "--json", str(path)]
        subprocess.run(
            [*command, *options], env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL
        )
        return read_report(path).results


def moves(before: Results, after: Results, statistic: int, precision: str) -> float:
    """The largest absolute change of a multiple, as a share of its limit."""
    old = {(r.case, r.precision, r.mode, r.tap): r.shares[statistic] for r in before}
    return max(
        abs(r.shares[statistic] - old[r.case, r.precision, r.mode, r.tap])
        for r in after
        if r.precision == precision
    )


def apart(first: Mutant, second: Mutant) -> bool:
    """Whether the two can be in one port: not in the same operation, and not both in the weights or the config."""
    if isinstance(first.change, OperationChange) and isinstance(second.change, OperationChange):
        return not set(first.change.replaced) & set(second.change.replaced)
    return type(first.change) is not type(second.change)


def inherited_growth(before: Results, after: Results) -> float:
    """The largest factor by which a forward error that is wrong on both sides grew; 0 where there is none."""
    old = {(r.case, r.tap): r for r in before if r.mode == "forward" and r.verdict != "match"}
    factors = [
        getattr(r, field) / getattr(old[r.case, r.tap], field)
        for r in after
        if r.mode == "forward" and r.verdict != "match" and (r.case, r.tap) in old
        for field in ("rms_multiple", "max_multiple")
        if getattr(r, field) is not None and getattr(old[r.case, r.tap], field) is not None
    ]
    return max(factors, default=0.0)


def main() -> None:
    plain = rounded({})
    for name, environment in ROUNDINGS.items():
        other = rounded(environment, CASES if name == "not jitted" else ())
        for precision in PRECISIONS.split(","):
            rms, largest, overall = (moves(plain, other, statistic, precision) for statistic in range(3))
            click.echo(
                f"{name}, {precision}: multiples move by at most so much of their limit: "
                f"{rms:.2g} (rms), {largest:.2g} (max), {overall:.2g} (overall)"
            )
    question = Question(precisions=("float32",), cases=CASES)

    def results(*mutants: Mutant) -> Results:
        name = " and ".join(mutant.id for mutant in mutants)
        return check(GOLDEN, CHECKPOINT, name, question, load=partial(load_mutants, mutants)).results

    alone = {mutant.id: results(mutant) for mutant in MUTANTS}
    growth: dict[tuple[str, str], float] = {}
    for first, second in itertools.combinations(MUTANTS, 2):
        if apart(first, second):
            before = results(first, second)
            growth[first.id, second.id] = inherited_growth(before, alone[second.id])
            growth[second.id, first.id] = inherited_growth(before, alone[first.id])
    (mended, left), factor = max(growth.items(), key=lambda item: item[1])
    click.echo(
        f"mending one of two bugs, {len(growth)} ways: a forward error that stays wrong grows by at most "
        f"{factor:.2g} ({mended} mended, {left} left); by more than 2 in {sum(f > 2 for f in growth.values())}"
    )


if __name__ == "__main__":
    main()
