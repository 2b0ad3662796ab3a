"""At which precision a bug is looked at: in float64, where a right port and a wrong one are furthest apart.

A port that hard-codes float32 is wrong in float64 wherever it does so, by float32's own rounding. That is no bug
of its formula, so that such a port is looked at in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.mutants.diagnosis.replay import FAULTY
from harness.results import TapResult
from harness.taps import kind_of
from harness.tolerances import PRECISIONS

# Twenty times float32's unit roundoff: what a few operations in float32 leave.
FLOAT32_SIZED = 20 * 2.0**-24


def wrong_kinds(results: Sequence[TapResult], precision: str) -> tuple[str, ...]:
    """The kinds that are introduced in replay at a precision, in the order of the results."""
    return tuple(
        dict.fromkeys(
            kind_of(r.tap)
            for r in results
            if (r.precision, r.mode) == (precision, "replay") and r.verdict in FAULTY
        )
    )


def hard_coded(results: Sequence[TapResult]) -> tuple[str, ...]:
    """Kinds that are wrong in float64 by no more than the rounding of float32, and right in float32."""
    if not any(r.precision == "float32" for r in results):
        return ()
    right_in_float32 = set(wrong_kinds(results, "float64")) - set(wrong_kinds(results, "float32"))
    sizes: dict[str, list[float]] = {kind: [] for kind in right_in_float32}
    for r in results:
        kind = kind_of(r.tap)
        if kind in sizes and (r.precision, r.mode) == ("float64", "replay") and r.verdict in FAULTY:
            sizes[kind].append(float("inf") if r.rel_rms is None else r.rel_rms)
    return tuple(kind for kind, found in sizes.items() if median(found) < FLOAT32_SIZED)


def telling(results: Sequence[TapResult]) -> str | None:
    """The precision to look at: the widest with something introduced; None where nothing is."""
    narrow = hard_coded(results)
    for precision in PRECISIONS:
        kinds = set(wrong_kinds(results, precision))
        if kinds and not (precision == "float64" and narrow and wrong_kinds(results, "float32")):
            return precision
    return None
