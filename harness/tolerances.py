"""precision -> what still counts as rounding, and why. The method: calibration.md.

In float32 and bfloat16 the limit of a place follows from what is known of PyTorch's own error there: `limits` are
the noise multiples that a correct port exceeds with a stated probability, where its errors are independent of
PyTorch's and as large. That, times what a correct port may be noisier. In float64, for which no noise is recorded,
multiples count half-ulps, and bugs are so far from rounding that one number does.

(scipy is imported when it is needed: a report is read without it.)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from harness.calibration import Floor
from harness.errors import UsageError
from harness.metrics import UNIT_ROUNDOFF, PerPosition

# The figures in the reasons come from `python -m tests.benchmarks.figures` and `tests.benchmarks.calibration`.

PRECISIONS = ("float64", "float32", "bfloat16")
# The chance of a correct port to be beyond a limit, in one comparison.
BUDGET = 1e-9
# The errors of neighbouring positions are not independent: so much of their degrees of freedom count together.
TOGETHER = 0.25
SMALL = 1 / 3  # of a limit: what the rounding of a stored truth may be (`harness.costs`)


@dataclass(frozen=True, eq=False)
class Allowed:
    """The largest multiples that still match: rms and max of every position, and of some positions together.

    Comparisons of the same places share one, which is not to be changed.
    """

    rms: PerPosition
    max: PerPosition
    overall: float
    together: Bool[np.ndarray, "batch position"]

    @cached_property
    def _many(self) -> int:
        return int(self.together.sum())

    def beyond(self, rms: PerPosition, largest: PerPosition) -> Bool[np.ndarray, "batch position"]:
        """Which positions do not match: by themselves, or among those that together do not."""
        alone: Bool[np.ndarray, "batch position"] = (rms > self.rms) | (largest > self.max)
        if self.overall_of(rms) > self.overall:
            alone |= self.together & (rms > self.overall)
        return alone

    def overall_of(self, rms: PerPosition) -> float:
        """The root of the mean square of rms multiples over the positions that `overall` is about."""
        if not self._many:
            return 0.0
        squares = np.square(rms.ravel() if self._many == rms.size else rms[self.together])
        return float(np.sqrt(np.add.reduce(squares) / self._many))


@dataclass(frozen=True)
class Limit:
    """What still counts as rounding at one precision.

    Attributes:
        allowance: how many times PyTorch's own error a correct port's may be, as measured.
        single: the same of a token that is a call of its own, where that is another.
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
    single: float | None = None

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
        return _allowed(self, floor, counted.tobytes(), counted.shape)

    def chance(self, floor: Floor | None, rms: PerPosition, places: int) -> float | None:
        """The chance of a correct port to have such an rms multiple anywhere; None where no noise is recorded."""
        if floor is None:
            return None
        chances = rms_chance(rms / self.allowances(floor), floor, self.reordered)
        return float(min(1.0, max(places, 1) * chances.min()))

    def allowances(self, floor: Floor) -> PerPosition:
        """The allowance of every position."""
        return np.where(floor.single, self.single or self.allowance, self.allowance)


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
        single=5.2,
        reordered=True,
        why="where products are summed in XLA's order a correct port's errors are 1.7 (512 products), 2.1 "
        "(896) and 2.5 times (1,216) PyTorch's, up to 3.1 for 18,944, and up to 2.8 where a norm's root "
        "has one rounding for all numbers; where a call has one token XLA sums one product after the other, and "
        "is up to 5.0 times as far off, for 512 to 53,248 products; the weakest known bug (products in three "
        "bfloat16 passes) is 109 times where it sits",
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
        hint = "for example --precision float64,float32"
        raise UsageError("unknown precision", "--precision", ", ".join(PRECISIONS), precision, hint=hint)
    for option, value in (("--limit-rms", rms), ("--limit-max", max_abs)):
        if value is not None and not 0 < value < float("inf"):
            problem = "a factor on the limits must be a positive number"
            raise UsageError(problem, option, found=value, hint="for example 2")
    base = LIMITS[precision]
    if rms is None and max_abs is None:
        return base
    return replace(base, rms=rms or 1.0, max=max_abs or 1.0, why=f"set on the command line; by itself: {base.why}")


def share(truth_dtype: str, precision: str, limit: Limit) -> float:
    """How much of the tightest limit, in multiples of noise, the rounding of a stored truth can be at most."""
    rms, largest = limit.half_ulps or (limit.allowance, limit.allowance)
    return UNIT_ROUNDOFF[truth_dtype] / UNIT_ROUNDOFF[precision] / min(limit.rms * rms, limit.max * largest)


def is_small(truth_dtype: str, precision: str, limit: Limit) -> bool:
    """Whether a check at this precision may be made."""
    return share(truth_dtype, precision, limit) <= SMALL


@functools.lru_cache(maxsize=4096)  # a floor is compared with in several modes, and by every mutant
def _allowed(limit: Limit, floor: Floor | None, which: bytes, shape: tuple[int, ...]) -> Allowed:
    """`Limit.of`, worked out once for all comparisons of the same places.

    Args:
        which: the bytes of `counted`, whose shape is `shape`.
    """
    counted = np.frombuffer(which, bool).reshape(shape)
    if floor is None:
        largest = limit.max * (limit.half_ulps[1] if limit.half_ulps else limit.allowance)
        return Allowed(np.full(shape, limit.plain), np.full(shape, largest), limit.plain, counted)
    rms_limit, max_limit = limits(floor, BUDGET / max(int(counted.sum()), 1), limit.reordered)
    together = counted & floor.estimated
    overall = overall_limit(floor, together, BUDGET) if together.any() else 1.0
    # What one position may be by itself, all of them together may be with it.
    most = np.square(rms_limit[together]).max(initial=0.0)
    overall = max(overall, float(np.sqrt(most / max(together.sum(), 1))))
    allowances = limit.allowances(floor)
    mean = float(np.sqrt(np.square(allowances[together]).mean())) if together.any() else limit.allowance
    return Allowed(
        limit.rms * allowances * rms_limit,
        limit.max * allowances * max_limit,
        limit.rms * mean * overall,
        together,
    )


def limits(floor: Floor, chance: float, reordered: bool = False) -> tuple[PerPosition, PerPosition]:
    """The noise multiples, rms and max, that a correct port exceeds with this chance, in one place.

    The square of the rms multiple is a ratio of two mean squares: F(dof, known). The largest of n Gaussian errors
    is beyond a bound with at most n times the chance of one, whose square over the floor's is F(1, known); the
    floor of the largest is what n of them typically have. n is how many contest it, for not all are of one size.

    Args:
        reordered: whether sums in another order are part of a correct port's rounding. A number's error then has a
            size of its own, not PyTorch's: that of its partial sums. See `_largest_reordered`.
    """
    few = floor.contested
    ratio = _f_quantile(floor.dof, floor.known, chance)
    extreme = _f_quantile(np.ones_like(few), floor.known_max, chance / few) / _typical(few)
    if reordered:
        square = _largest_reordered(floor.numbers, chance)
        ratio = np.maximum(ratio, square / floor.numbers)  # where numbers are few, one of them is the rms
        extreme = np.maximum(extreme, square / _typical(floor.numbers))
    rms, largest = (np.sqrt(np.where(floor.estimated, square, 1.0)) for square in (ratio, extreme))
    return rms, largest


def _largest_reordered(numbers: PerPosition, chance: float) -> PerPosition:
    """What the square of the largest of n errors of reordered sums, of variance 1, exceeds with this chance.

    A sum's error is Gaussian with the variance of its partial sums, which are a random walk of their own in every
    number. With an exponentially distributed variance it is Laplace's: P(|e| > t) = exp(-sqrt(2) t).
    """
    return np.asarray(np.square(np.log(numbers / chance)) / 2)


def _f_quantile(dof: PerPosition, known: PerPosition, chance: PerPosition | float) -> PerPosition:
    """What F(dof, known) exceeds with this chance."""
    from scipy.special import betaincinv

    tail = betaincinv(known / 2, dof / 2, chance)
    return np.asarray(known * (1 - tail) / (dof * tail))


def _typical(numbers: PerPosition) -> PerPosition:
    """The mean of the largest of n squared Gaussian numbers.

    In the Gumbel limit it is where n times the tail is e^-gamma; n + 0.77 brings n = 1 to its mean, which is 1,
    and whatever is between to within 1 %.
    """
    from scipy.special import gammainccinv

    return np.asarray(2 * gammainccinv(0.5, np.exp(-np.euler_gamma) / (numbers + 0.77)))


def overall_limit(floor: Floor, counted: Bool[np.ndarray, "batch position"], chance: float) -> float:
    """The same for the root of the mean, over all positions, of the squared rms multiples.

    Where every position is a little noisier than PyTorch no single one is unusual, and all of them together are.
    """
    alone, known = (1 / float((1 / values[counted]).mean()) for values in (floor.dof, floor.known))
    dof = max(TOGETHER * int(counted.sum()), 1.0) * alone
    known = max(known, dof)
    return float(np.sqrt(_f_quantile(np.array(dof), np.array(known), chance)))


def rms_chance(multiple: PerPosition, floor: Floor, reordered: bool = False) -> PerPosition:
    """The chance of a port whose errors are as large as PyTorch's to have such an rms multiple or more."""
    from scipy.special import betainc

    with np.errstate(over="ignore"):
        share = floor.known / (floor.known + floor.dof * np.square(multiple))
    chance = betainc(floor.known / 2, floor.dof / 2, share)
    if reordered:
        bound = floor.numbers * np.exp(-np.sqrt(2 * floor.numbers) * multiple)
        chance = np.where(floor.estimated, np.maximum(chance, np.minimum(bound, 1.0)), chance)
    return np.asarray(chance)
