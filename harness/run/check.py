"""A check: golden + port -> report."""

from __future__ import annotations

from pathlib import Path

from harness.report.document import Report
from harness.run.checker import Checker
from harness.run.loading import Loader
from harness.run.port import BUILT_IN
from harness.run.progress import SILENT, Progress
from harness.run.question import STANDARD, Question


def check(
    golden_path: Path | str,
    checkpoint: Path | None,
    spec: str = BUILT_IN,
    question: Question = STANDARD,
    *,
    load: Loader | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Check a port against a golden: every case, at every precision and in every mode asked for.

    Args:
        golden_path, checkpoint, spec, question, load: as `Checker` takes them.
        progress: told what is being done, comparison by comparison.

    Raises:
        HarnessError: something could not be checked. What was checked and is wrong is in the report.
    """
    progress.begin("config, weights, token ids")
    with Checker(golden_path, checkpoint, spec, question, load=load) as checker:
        return checked(checker, progress)


def checked(checker: Checker, progress: Progress = SILENT) -> Report:
    """All that is asked of the port of a checker, precision by precision."""
    return checker.report([checker.run(p, progress=progress) for p in checker.question.precisions])
