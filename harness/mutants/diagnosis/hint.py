"""The last line of a check that failed: what the bug looks like, where that is cheap to say."""

from __future__ import annotations

from harness.mutants.diagnosis.diagnose import answers, operation, replayed_again, searching
from harness.mutants.diagnosis.observe import telling
from harness.report.diagnosis import known_as, verdict_line
from harness.report.document import Report
from harness.report.findings import unexplained
from harness.report.wording import some
from harness.run.check import Checker
from harness.run.question import repeated

# Beyond these a run of one stage takes longer than a person wants to wait for after a check.
MOST_PARAMETERS, MOST_TOKENS = 50_000_000, 64
UNKNOWN = "no bug of the catalogue as it is"


def hint(checker: Checker, report: Report) -> str | None:
    """What the wrong operations look like, a line each, or the command that says it; None where nothing is wrong,
    or nothing but that the model computes in a narrower dtype than it is asked for.

    The bugs of the catalogue are tried as they are. Where none of them fits, other values and pairs may: that is
    for `goldens diagnose`.

    A diagnosis that fails does not take the report of the check with it: the line then says what failed.

    Args:
        checker: that made the report; what it has opened and loaded is used again.
    """
    if report.verdict == "match" or (report.narrower and not unexplained(report)):
        return None
    precision = telling(report.results)
    if precision is None:
        return None
    command = repeated("diagnose", checker.given, report.golden.model)
    large = report.golden.provenance["parameters"] > MOST_PARAMETERS
    try:
        told = None if large else _looks_like(checker, report, precision)
    except Exception as error:  # not Ctrl-C; anything else is said, for the report has to be shown all the same
        return f"unknown, diagnosis failed: {_in_one_line(error)}; `{command}` shows it"
    if told is None:
        return f"`{command}` looks for the bug that does the same"
    lines, known = told
    more = "tries other values and two at a time" if any(UNKNOWN in line for line in lines) else "says more"
    return "\n".join([*lines, *known, f"`{command}` {more}"])


def _in_one_line(error: Exception) -> str:
    """Its type and the first line of what it says: a refusal's problem, without the facts below it."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _looks_like(checker: Checker, report: Report, precision: str) -> tuple[list[str], list[str]] | None:
    """A line for each wrong operation, those without a name in one, and what a single one is known as.

    None where it is not cheap to say.
    """
    port = replayed_again(checker, report, precision, MOST_TOKENS)
    if not port.replays:
        return None
    operations = [operation(port, answer) for answer in answers(port, searching(port, thorough=False))]
    told = [
        f"{verdict_line(op, precision)}, at {some(op.taps, 2)}" for op in operations if op.named or op.built_in
    ]
    unnamed = [op for op in operations if not (op.named or op.built_in)]
    if unnamed:
        where = f" at {some([tap for op in unnamed for tap in op.taps], 2)}" if told else ""
        told.append(f"{UNKNOWN}{where}")
    known = [line for op in operations for line in known_as(op)] if len(operations) == 1 else []
    return told, known
