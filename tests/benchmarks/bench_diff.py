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
from dataclasses import fields, replace
from pathlib import Path

import click

from harness import embedded
from harness.comparison import TapResult
from harness.report.reading import read_report
from harness.run.check import check
from harness.run.operations import OPERATIONS, Operations
from harness.run.question import Question
from tests.benchmarks.figures import CASES as SHORT
from tests.planted import BUGS, Bug, load_with

CASES = ("digits", *SHORT)
GOLDEN, CHECKPOINT = embedded.golden(), embedded.directory() / "qwen2-tiny"
ROUNDINGS = {
    "SSE4.2": {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    "AVX": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX"},
    "not jitted": {"JAX_DISABLE_JIT": "1"},
}
PRECISIONS = "float64,float32,bfloat16"

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


def moves(before: Results, after: Results, field: str, precision: str) -> float:
    """The largest absolute change of a multiple."""
    old = {(r.case, r.precision, r.mode, r.tap): getattr(r, field) for r in before}
    return max(
        abs(getattr(r, field) - old[r.case, r.precision, r.mode, r.tap]) for r in after if r.precision == precision
    )


def both(first: Bug, second: Bug) -> Bug | None:
    """Two bugs in one port; None where they sit in the same operation or the same weights."""
    changed: dict[str, object] = {}
    for bug in (first, second):
        for field in fields(Operations):
            operation = getattr(bug.operations, field.name)
            if operation is not getattr(OPERATIONS, field.name):
                if field.name in changed:
                    return None
                changed[field.name] = operation
    if (first.weights or first.rename) and (second.weights or second.rename):
        return None
    of_weights = first if first.weights or first.rename else second
    return replace(of_weights, operations=replace(OPERATIONS, **changed))


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
            rms, largest = (moves(plain, other, f"{field}_multiple", precision) for field in ("rms", "max"))
            click.echo(f"{name}, {precision}: multiples move by at most {rms:.2g} (rms), {largest:.2g} (max)")
    question = Question(precisions=("float32",), cases=CASES)

    def results(bug: Bug) -> Results:
        return check(GOLDEN, CHECKPOINT, bug.name, question, load=load_with(bug)).results

    alone = {bug.name: results(bug) for bug in BUGS}
    growth: dict[tuple[str, str], float] = {}
    for first, second in itertools.combinations(BUGS, 2):
        two = both(first, second)
        if two is not None:
            before = results(two)
            growth[first.name, second.name] = inherited_growth(before, alone[second.name])
            growth[second.name, first.name] = inherited_growth(before, alone[first.name])
    (mended, left), factor = max(growth.items(), key=lambda item: item[1])
    click.echo(
        f"mending one of two bugs, {len(growth)} ways: a forward error that stays wrong grows by at most "
        f"{factor:.2g} ({mended} mended, {left} left); by more than 2 in {sum(f > 2 for f in growth.values())}"
    )


if __name__ == "__main__":
    main()
