"""Criteria on the logits, as teams have them: those of the team that this project began with, or others.

They decide no verdict, and say what a team's own script would have said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import msgspec

from harness.errors import UsageError
from harness.logits import Continuation
from harness.report.document import Acceptance, Criteria, Report
from harness.report.summary import largest
from harness.results import TapResult

MAX_ABS, MEAN_ABS = 1e-4, 1e-5
PHASE_3 = Criteria(max_abs=MAX_ABS, mean_abs=MEAN_ABS, position_r=0.1)
PHASE_3_NAME = "phase-3"  # of the acceptance of that team's port
PREFERENCE = ("float32", "float64", "bfloat16")


def parse_criteria(text: str) -> Criteria:
    """`phase-3`, or `max_abs=1e-4,mean_abs=1e-5,position_r=0.1`: any of the three.

    Raises:
        UsageError: an unknown name, one that is given twice, or what is no positive number.
    """
    if text.strip() == PHASE_3_NAME:
        return PHASE_3
    known = tuple(field.name for field in fields(Criteria))
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        value = _number(number)
        if name not in known or name in given or not is_threshold(value):
            problem = "a criterion is given twice" if name in given else "this is not a threshold"
            problem = problem if name in known else "unknown criterion"
            expected = f"{PHASE_3_NAME}, or NAME=NUMBER with commas, of {', '.join(known)}, each above 0"
            hint = f"for example --criteria max_abs=1e-4,mean_abs=1e-5,position_r=0.1, which is {PHASE_3_NAME}"
            raise UsageError(problem, f"--criteria {text}", expected, part.strip() or "nothing", hint=hint)
        given[name] = value
    return Criteria(**given)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_threshold(value: float) -> bool:
    return math.isfinite(value) and value > 0


def criteria_of(acceptance: Acceptance | None) -> Criteria:
    """Those that were judged by."""
    asked = None if acceptance is None else acceptance.criteria
    return asked if isinstance(asked, Criteria) else PHASE_3


def criteria_of_both(before: Report, after: Report) -> Criteria:
    """One set for both sides of a diff: what either was asked, the later one first."""
    asked = (criteria_of(side.acceptance) for side in (after, before))
    return next((criteria for criteria in asked if criteria != PHASE_3), PHASE_3)


def acceptance(
    results: Sequence[TapResult], generations: Sequence[Continuation] = (), criteria: Criteria = PHASE_3
) -> Acceptance | None:
    """Judge the forward logits of all cases, and what was generated; None where no logits were compared.

    float32 where it was checked: the precision at which the criteria make sense.
    """
    forward = [r for r in results if r.tap == "logits" and r.mode == "forward"]
    precision = next((p for p in PREFERENCE if any(r.precision == p for r in forward)), None)
    if precision is None:
        return None
    logits = [
        r
        for r in forward
        if r.precision == precision and (precision == "bfloat16" or not _beyond_reach(r, criteria))
    ]
    max_abs = largest(r.max_abs for r in logits)
    mean_abs = largest(r.mean_abs for r in logits)
    meaningful = [r.position_r for r in logits if r.position_r is not None and r.position_note is None]
    correlation = max(meaningful, key=abs, default=None)
    written = [generation for generation in generations if generation.precision == precision]
    passed = (
        _is_below(max_abs, criteria.max_abs)
        and _is_below(mean_abs, criteria.mean_abs)
        and _is_below(abs(correlation or 0.0), criteria.position_r)
        and all(generation.verdict == "match" for generation in written)
    )
    return Acceptance(
        precision=precision,
        max_abs=max_abs,
        mean_abs=mean_abs,
        position_correlation=correlation,
        passed=passed,
        remark=_remark(forward, criteria),
        generation="; ".join(generation.text for generation in written) or None,
        criteria=msgspec.UNSET if criteria == PHASE_3 else criteria,
    )


def _is_below(figure: float | None, threshold: float | None) -> bool:
    """Whether a figure meets its criterion, where there is one; a figure that is not finite meets none."""
    return threshold is None or (figure is not None and figure < threshold)


def _beyond_reach(result: TapResult, criteria: Criteria) -> bool:
    """Whether PyTorch itself misses the criterion in this case: far positions, where angles are rounded."""
    return criteria.max_abs is not None and result.noise_max is not None and result.noise_max >= criteria.max_abs


def _remark(forward: Sequence[TapResult], criteria: Criteria) -> str | None:
    far = [r for r in forward if r.precision == "float32" and _beyond_reach(r, criteria)]
    named = (
        f"not judged by these criteria: {', '.join(r.case for r in far)}, where PyTorch's own float32 is up to "
        f"{max(r.noise_max or 0 for r in far):.2g} off"
        if far
        else None
    )
    kept = {r.logits.top for r in forward if r.logits is not None and r.logits.top is not None}
    largest = (
        f"judged by the {max(kept)} largest logits of each position: the golden has no others" if kept else None
    )
    return "; ".join(filter(None, (largest, named, _bfloat16_remark(forward, criteria)))) or None


def _bfloat16_remark(forward: Sequence[TapResult], criteria: Criteria) -> str | None:
    """What to make of bfloat16 logits, where they were checked and the criteria are below the noise there."""
    own = [r.noise_max for r in forward if r.precision == "bfloat16" and r.noise_max is not None]
    if not own or criteria.max_abs is None or criteria.max_abs > max(own):
        return None
    return (
        f"{criteria.max_abs:g} is below PyTorch's own bfloat16 noise of {max(own):.2g} on these logits: no "
        "bfloat16 port can reach it, right or wrong; judge it by the noise multiples, and the function in float32"
    )
