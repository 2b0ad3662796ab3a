"""Commands that a report suggests: the same question to the same port, with what was given repeated."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from harness import embedded
from harness.report.document import Report
from harness.run.question import USUAL, Question, shown_axes


@dataclass(frozen=True)
class Given:
    """What a command was given: the golden, its checkpoint (None: beside it), the port, and the question."""

    golden: Path | str
    checkpoint: Path | None
    spec: str
    question: Question


def proposing(given: Given, model: str) -> str:
    """`goldens port` for the same port, on the same golden and checkpoint."""
    words = ["goldens", "port", given.spec]
    if str(given.golden) != str(embedded.golden()):
        words.append(str(given.golden))
    if given.checkpoint not in (None, embedded.checkpoint_beside(str(given.golden), model)):
        words += ["--weights", str(given.checkpoint)]
    return shlex.join(words)


def repeated(command: str, given: Given, model: str) -> str:
    """`goldens COMMAND` on the same golden and checkpoint, of the same port, without what goes without saying.

    Args:
        command: `check` or `diagnose`. What both take is repeated: precisions, cases, the mesh, waivers.
        model: whose checkpoint lies beside the golden by its name.
    """
    words, question = ["goldens", command], given.question
    if str(given.golden) != str(embedded.golden()):
        words.append(str(given.golden))
    if given.checkpoint not in (None, embedded.checkpoint_beside(str(given.golden), model)):
        words += ["--weights", str(given.checkpoint)]
    if question.precisions != USUAL:
        words += ["--precision", ",".join(question.precisions)]
    for pattern in question.cases:
        words += ["--case", pattern]
    if question.mesh:
        words += ["--mesh", shown_axes(question.mesh)]
    words += ["--lift"] * question.lift + ["--allow-reduced-precision"] * question.allow_reduced_precision
    return shlex.join([*words, "--port", given.spec])


def with_commands(report: Report, given: Given, recorded: Collection[str]) -> Report:
    """The report with the command that checks a model as it is which computes in a narrower dtype everywhere.

    Args:
        recorded: the precisions of which the golden has PyTorch's own error: of others it can say nothing.
    """

    def command(dtype: str) -> str | None:
        asked = replace(given, question=replace(given.question, precisions=(dtype,), lift=False))
        return repeated("check", asked, report.golden.model) if dtype in recorded else None

    said = tuple(replace(one, command=command(one.dtype)) for one in report.narrower)
    return replace(report, narrower=said)
