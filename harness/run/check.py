"""A check: golden + port -> report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.comparison import TapResult
from harness.report.document import Report
from harness.run.checker import Checker, Loader
from harness.run.port import BUILT_IN
from harness.run.question import STANDARD, Question


def check(
    golden_path: Path | str,
    checkpoint: Path,
    spec: str = BUILT_IN,
    question: Question = STANDARD,
    *,
    load: Loader | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Check a port against a golden: every case, at every precision and in every mode asked for.

    Args:
        golden_path, checkpoint, spec, question, load: as `Checker` takes them.
        progress: told what is being done.

    Raises:
        HarnessError: something could not be checked. What was checked and is wrong is in the report.
    """
    progress("config, weights, token ids")
    with Checker(golden_path, checkpoint, spec, question, load=load) as checker:
        results: list[TapResult] = []
        for precision in question.precisions:
            progress(f"{precision}: {len(checker.cases)} cases")
            results += checker.run(precision)
        return checker.report(results)
