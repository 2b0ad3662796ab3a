"""The README's table: per precision the limits, how much of them a correct port needs, and the weakest known bugs.

    python -m tests.benchmarks.figures

A mutant of the catalogue is as strong as its largest multiple; the weakest is the one for which that is least,
among those that are bugs at that precision and that the embedded golden has the inputs for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.mutants.audit import AuditQuestion, audit
from harness.report.audit_document import Audit
from harness.results import TapResult
from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import LIMITS, PRECISIONS

SHOWN = 3
STATISTICS = ("rms", "max", "overall")  # in the order of TapResult.shares


def largest(results: Sequence[TapResult], field: str) -> str:
    worst = max(results, key=lambda r: getattr(r, field))
    return f"{getattr(worst, field):.2g} ({worst.tap}, {worst.case})"


def limits(results: Sequence[TapResult], field: str) -> str:
    """The limits of all comparisons: the median, and the middle 90 %."""
    low, middle, high = np.quantile([getattr(r, f"{field}_limit") for r in results], (0.05, 0.5, 0.95))
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def shares(results: Sequence[TapResult], statistic: int) -> str:
    worst = max(results, key=lambda r: r.shares[statistic])
    return f"{worst.shares[statistic]:.2g} ({worst.tap}, {worst.case}, {worst.mode})"


def weakest(found: Audit, precision: str) -> str:
    measured = sorted(
        (result.rms_multiple, mutant.id)
        for mutant in found.mutants
        for result in mutant.results
        if result.precision == precision
        and result.outcome in ("caught", "survived")
        and result.rms_multiple is not None
    )
    return ", ".join(f"{multiple:.2g} ({name})" for multiple, name in measured[:SHOWN])


def main() -> None:
    golden, checkpoint = embedded.golden(), embedded.directory() / "qwen2-tiny"
    clean = check(golden, checkpoint, question=Question(precisions=PRECISIONS)).results
    found = audit(golden, checkpoint, AuditQuestion(PRECISIONS))
    table = Table("", *PRECISIONS, box=None)
    by_precision = [[r for r in clean if r.precision == p] for p in PRECISIONS]
    table.add_row("allowance", *(f"{LIMITS[p].allowance:g}" for p in PRECISIONS))
    for statistic, field in enumerate(STATISTICS):
        table.add_row(f"limit, {field}", *(limits(results, field) for results in by_precision))
        table.add_row("correct port, of it at most", *(shares(results, statistic) for results in by_precision))
    for field in ("rms_multiple", "max_multiple", "rel_rms"):
        table.add_row(f"correct port, largest {field}", *(largest(results, field) for results in by_precision))
    table.add_row("weakest mutants, rms", *(weakest(found, p) for p in PRECISIONS))
    scores = [found.scores[p] for p in PRECISIONS]
    table.add_row("caught", *(f"{score.caught} of {score.visible}" for score in scores))
    table.add_row("and named", *(f"{score.named} of {score.visible}" for score in scores))
    table.add_row("blind", ", ".join(found.blind) or "-")
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
