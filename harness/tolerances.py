"""precision -> what still counts as rounding, and why.

In float32 and bfloat16 the limit of a place follows from what is known of PyTorch's own error there (see
`harness.chances`, and calibration.md for the method), times what a correct port may be noisier. In float64,
for which no noise is recorded, multiples count half-ulps, and bugs are so far from rounding that one number does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from harness.calibration import Floor
from harness.chances import BUDGET, limits, overall_limit, rms_chance
from harness.errors import UsageError
from harness.metrics import PerPosition

# The figures in the reasons come from `python -m tests.benchmarks.figures` and `tests.benchmarks.calibration`.

PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class Allowed:
    """The largest multiples that still match: rms and max of every position, and of some positions together."""

    rms: PerPosition
    max: PerPosition
    overall: float
    together: Bool[np.ndarray, "batch position"]

    def beyond(self, rms: PerPosition, largest: PerPosition) -> Bool[np.ndarray, "batch position"]:
        """Which positions do not match: by themselves, or among those that together do not."""
        together = (self.overall_of(rms) > self.overall) & self.together & (rms > self.overall)
        return (rms > self.rms) | (largest > self.max) | together

    def overall_of(self, rms: PerPosition) -> float:
        """The root of the mean square of rms multiples over the positions that `overall` is about."""
        return float(np.sqrt(np.square(rms[self.together]).mean())) if self.together.any() else 0.0


@dataclass(frozen=True)
class Limit:
    """What still counts as rounding at one precision.

    Attributes:
        allowance: how many times PyTorch's own error a correct port's may be, as measured.
        why: the measurements that it rests on.
        weakest_bug: the rms multiple of the weakest known bug, at the tap where it sits (embedded golden,
            `goldens audit`).
        rms, max: factors on the limits, the user's own; 1 unless asked for.
        half_ulps: limits on the rms and the max where no noise is recorded; None where it is.
        reordered: whether sums in another order are part of the rounding: not where they are rounded more narrowly
            than they are summed.
    """

    allowance: float
    why: str
    weakest_bug: float
    rms: float = 1.0
    max: float = 1.0
    half_ulps: tuple[float, float] | None = None
    reordered: bool = False

    @property
    def plain(self) -> float:
        """The rms limit of a place of which everything is known."""
        return self.rms * (self.half_ulps[0] if self.half_ulps else self.allowance)

    def of(self, floor: Floor | None, counted: Bool[np.ndarray, "batch position"]) -> Allowed:
        """What still matches, of one comparison.

        Args:
            floor: PyTorch's own error; None where none is recorded.
            counted: the positions that are compared: together they have the budget of one comparison.
        """
        if floor is None:
            largest = self.max * (self.half_ulps[1] if self.half_ulps else self.allowance)
            return Allowed(
                np.full(counted.shape, self.plain), np.full(counted.shape, largest), self.plain, counted
            )
        rms_limit, max_limit = limits(floor, BUDGET / max(int(counted.sum()), 1), self.reordered)
        together = counted & floor.estimated
        overall = overall_limit(floor, together, BUDGET) if together.any() else 1.0
        # What one position may be by itself, all of them together may be with it.
        overall = max(
            overall, float(np.sqrt(np.square(rms_limit[together]).max(initial=0.0) / max(together.sum(), 1)))
        )
        return Allowed(
            self.rms * self.allowance * rms_limit,
            self.max * self.allowance * max_limit,
            self.rms * self.allowance * overall,
            together,
        )

    def chance(self, floor: Floor | None, rms: PerPosition, places: int) -> float | None:
        """The chance of a correct port to have such an rms multiple anywhere; None where no noise is recorded."""
        if floor is None:
            return None
        chances = rms_chance(rms / self.allowance, floor, self.reordered)
        return float(min(1.0, max(places, 1) * chances.min()))


LIMITS = {
    "float64": Limit(
        allowance=1.0,
        half_ulps=(1e5, 1e6),
        why="float64 has no recorded floor, so multiples count half-ulps of the values themselves: the built-in "
        "port reaches 37 (rms) and 69 (max) on the embedded golden, a constant rounded to float32 would be 5e8, "
        "the weakest known bug (products in three bfloat16 passes) is 3.2e11 where it sits",
        weakest_bug=3.2e11,
    ),
    "float32": Limit(
        allowance=3.2,
        reordered=True,
        why="where products are summed in XLA's order a correct port's errors are 1.7 (512 products), 2.1 "
        "(896) and 2.5 times (1,216) PyTorch's, up to 3.1 for 18,944, and up to 2.8 where a norm's root "
        "has one rounding for all numbers; the weakest known bug (products in three bfloat16 passes) is "
        "109 times where it sits",
        weakest_bug=109.0,
    ),
    "bfloat16": Limit(
        allowance=1.25,
        why="whoever rounds where PyTorch rounds has its error: 0.5 to 1.05 times as large, by the median of "
        "every operation; smaller bugs (a wrong eps, logits capped at 30) belong to float32 and float64",
        weakest_bug=2.4,
    ),
}


def limit(precision: str, rms: float | None = None, max_abs: float | None = None) -> Limit:
    """The limit at a precision, with the user's own factors where given.

    Raises:
        UsageError: an unknown precision, or a factor that is not a positive number.
    """
    if precision not in LIMITS:
        raise UsageError(
            "unknown precision",
            where="--precision",
            expected=", ".join(PRECISIONS),
            found=precision,
            hint="for example --precision float64,float32",
        )
    for option, value in (("--limit-rms", rms), ("--limit-max", max_abs)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(
                "a factor on the limits must be a positive number", where=option, found=value, hint="for example 2"
            )
    base = LIMITS[precision]
    if rms is None and max_abs is None:
        return base
    return replace(base, rms=rms or 1.0, max=max_abs or 1.0, why=f"set on the command line; by itself: {base.why}")
