"""The last line of a check that failed: what the bug looks like, where that is cheap to say."""

from __future__ import annotations

from pathlib import Path

from harness.mutants.diagnosis.diagnose import Subject, answers, operation
from harness.mutants.diagnosis.observe import Plan, observe, plan
from harness.mutants.diagnosis.precision import telling
from harness.report.diagnosis import verdict_line
from harness.report.document import Report
from harness.run.checker import Checker, Loader
from harness.run.question import Question

# Beyond these a run of one stage takes longer than a person wants to wait for after a check.
MOST_PARAMETERS, MOST_TOKENS = 50_000_000, 64
UNKNOWN = "no bug of the catalogue as it is"


def hint(
    golden: Path | str,
    checkpoint: Path | None,
    spec: str,
    question: Question,
    report: Report,
    load: Loader | None = None,
) -> str | None:
    """What the first wrong operation looks like, or the command that says it; None where nothing is wrong.

    The bugs of the catalogue are tried as they are, on the case and the layer in which that operation is first
    wrong. Where none of them fits, other values and pairs may: that is for `goldens diagnose`.
    """
    if report.verdict == "match":
        return None
    precision = telling(report.results)
    if precision is None:
        return None
    command = f"goldens diagnose --port {spec}"
    large = report.golden.provenance["parameters"] > MOST_PARAMETERS
    try:
        line = None if large else _looks_like(golden, checkpoint, spec, question, report, precision, load)
    except Exception:  # whatever stops a diagnosis, the report of the check is there and has to be shown
        line = None
    if line is None:
        return f"`{command}` looks for the bug that does the same"
    if line == UNKNOWN:
        return f"{UNKNOWN}; `{command}` tries other values and two at a time"
    return f"{line}; `{command}` says more"


def _looks_like(
    golden: Path | str,
    checkpoint: Path | None,
    spec: str,
    question: Question,
    report: Report,
    precision: str,
    load: Loader | None,
) -> str | None:
    """The bug, or `UNKNOWN`; None where it is not cheap to say."""
    with Checker(golden, checkpoint, spec, question, load=load) as checker:
        replayed = [r for r in report.results if (r.precision, r.mode) == (precision, "replay")]
        chosen = plan(replayed, checker.cases, checker.golden.manifest.taps)
        chosen = Plan(chosen.cases[:1], chosen.stages[:1])
        if chosen.cases[0].shape[1] > MOST_TOKENS:
            return None
        subject = Subject(checker, report, precision, observe(checker, precision, chosen))
        answer = next(answers(subject, thorough=False), None)
    if answer is None or not answer.named:
        return UNKNOWN
    return verdict_line(operation(subject, answer), precision)
