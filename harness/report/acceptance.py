"""The phase-3 acceptance of the original team, on the logits: what their scripts would have said."""

from __future__ import annotations

from collections.abc import Sequence

from harness.generation import Continuation
from harness.report.document import Acceptance
from harness.results import TapResult

MAX_ABS, MEAN_ABS, POSITION_CORRELATION = 1e-4, 1e-5, 0.1
PREFERENCE = ("float32", "float64", "bfloat16")


def acceptance(results: Sequence[TapResult], generations: Sequence[Continuation] = ()) -> Acceptance | None:
    """Judge the forward logits of all cases, and what was generated; None where no logits were compared.

    float32 where it was checked: the precision at which the criteria make sense.
    """
    forward = [r for r in results if r.tap == "logits" and r.mode == "forward"]
    precision = next((p for p in PREFERENCE if any(r.precision == p for r in forward)), None)
    if precision is None:
        return None
    logits = [r for r in forward if r.precision == precision and (precision == "bfloat16" or not _beyond_reach(r))]
    max_abs = _largest([r.max_abs for r in logits])
    mean_abs = _largest([r.mean_abs for r in logits])
    meaningful = [r.position_r for r in logits if r.position_r is not None and r.position_note is None]
    correlation = max(meaningful, key=abs, default=None)
    written = [one for one in generations if one.precision == precision]
    passed = (
        max_abs is not None
        and max_abs < MAX_ABS
        and mean_abs is not None
        and mean_abs < MEAN_ABS
        and (correlation is None or abs(correlation) < POSITION_CORRELATION)
        and all(one.verdict == "match" for one in written)
    )
    return Acceptance(
        precision=precision,
        max_abs=max_abs,
        mean_abs=mean_abs,
        position_correlation=correlation,
        passed=passed,
        remark=_remark(forward),
        generation="; ".join(one.text for one in written) or None,
    )


def _beyond_reach(result: TapResult) -> bool:
    """Whether PyTorch itself misses the criterion in this case: far positions, where angles are rounded."""
    return result.noise_max is not None and result.noise_max >= MAX_ABS


def _remark(forward: Sequence[TapResult]) -> str | None:
    far = [r for r in forward if r.precision == "float32" and _beyond_reach(r)]
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
    return "; ".join(filter(None, (largest, named, _bfloat16_remark(forward)))) or None


def _bfloat16_remark(forward: Sequence[TapResult]) -> str | None:
    """What to make of bfloat16 logits, where they were checked: the criteria are below the noise there."""
    own = [r.noise_max for r in forward if r.precision == "bfloat16" and r.noise_max is not None]
    if not own:
        return None
    return (
        f"{MAX_ABS:g} is below PyTorch's own bfloat16 noise of {max(own):.2g} on these logits: no bfloat16 "
        "port can reach it, right or wrong; judge it by the noise multiples, and the function in float32"
    )


def _largest(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return max(finite) if finite and len(finite) == len(values) else None
