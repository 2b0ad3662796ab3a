"""The README's table: per precision the limits, a correct port's largest multiples, and the weakest planted bug.

    python -m tests.benchmarks.figures

A planted bug is as strong as its largest multiple at a tap where it sits; the weakest bug is the one for which
that is least. Cases: those of the planted-bug tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.comparison import TapResult
from harness.report.findings import multiple
from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import LIMITS, PRECISIONS
from tests.planted import BUGS, load_with
from tests.run.test_planted_bugs import CASES


def largest(results: Sequence[TapResult], field: str) -> str:
    worst = max(results, key=lambda r: getattr(r, field))
    return f"{getattr(worst, field):.2g} ({worst.tap}, {worst.case})"


def main() -> None:
    golden, checkpoint = embedded.golden(), embedded.directory() / "qwen2-tiny"
    clean = check(golden, checkpoint, question=Question(precisions=PRECISIONS)).results
    table = Table("", *PRECISIONS, box=None)
    by_precision = [[r for r in clean if r.precision == p] for p in PRECISIONS]
    table.add_row("limit, rms", *(f"{LIMITS[p].rms:g}" for p in PRECISIONS))
    table.add_row("limit, max", *(f"{LIMITS[p].max:g}" for p in PRECISIONS))
    for field in ("rms_multiple", "max_multiple", "rel_rms"):
        table.add_row(f"correct port, largest {field}", *(largest(results, field) for results in by_precision))
    strength: dict[str, dict[str, float]] = {p: {} for p in PRECISIONS}
    missed: dict[str, list[str]] = {p: [] for p in PRECISIONS}
    for bug in BUGS:
        report = check(golden, checkpoint, bug.name, Question(PRECISIONS, cases=CASES), load=load_with(bug))
        for p in PRECISIONS:
            there = [r for r in report.results if r.precision == p and r.tap.rpartition(".")[2] in bug.kinds]
            strength[p][bug.name] = max(multiple(r) for r in there if r.mode == "replay")
            if not any(r.verdict == "introduced" for r in there):
                missed[p].append(bug.name)
    weakest = [min(strength[p], key=strength[p].__getitem__) for p in PRECISIONS]
    table.add_row(
        "weakest planted bug, rms",
        *(f"{strength[p][name]:.2g} ({name})" for p, name in zip(PRECISIONS, weakest, strict=True)),
    )
    table.add_row("caught", *(f"{len(BUGS) - len(missed[p])} of {len(BUGS)}" for p in PRECISIONS))
    table.add_row("not seen", *(", ".join(missed[p]) or "-" for p in PRECISIONS))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
