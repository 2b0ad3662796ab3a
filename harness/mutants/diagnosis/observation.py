"""What a port did at one tap on golden inputs, and how far that is from the golden or from a mutant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Num

from harness import metrics
from harness.calibration import Floor
from harness.comparison import multiples
from harness.metrics import PerPosition
from harness.run.comparing import Compared
from harness.taps import Tap
from harness.tolerances import Limit


@dataclass(frozen=True, eq=False)
class Distance:
    """How far two values of one tap are apart, by row of the batch and position.

    Attributes:
        rms_each: in noise multiples.
        max_each: the largest difference as a share of its limit.
        square_each: the sum of squared differences; infinite where one side alone is not finite.
        beyond: where a multiple is beyond the limits of a check.
    """

    rms_each: PerPosition
    max_each: PerPosition
    square_each: PerPosition
    beyond: Bool[np.ndarray, "batch position"]

    @property
    def rms(self) -> float:
        """At the worst position."""
        return float(self.rms_each.max(initial=0.0))

    @property
    def max(self) -> float:
        """At the worst position."""
        return float(self.max_each.max(initial=0.0))

    @property
    def square(self) -> float:
        """Of all positions."""
        return float(self.square_each.sum())

    @property
    def within(self) -> bool:
        """Nowhere beyond the limits."""
        return not self.beyond.any()

    def among(self, where: Bool[np.ndarray, "batch position"]) -> Distance:
        """At some of the positions; 0 at the others."""
        rms, largest, square = (np.where(where, x, 0.0) for x in (self.rms_each, self.max_each, self.square_each))
        return Distance(rms, largest, square, self.beyond & where)


@dataclass(frozen=True, eq=False)
class Observation:
    """One tap of the port in replay, at the tokens that a check compares.

    Attributes:
        compared: the port's values, the golden's, and PyTorch's own error.
        limit: of the check.
    """

    compared: Compared
    precision: str
    limit: Limit

    @property
    def tap(self) -> Tap:
        return self.compared.tap

    @property
    def actual(self) -> Num[np.ndarray, "..."]:
        return self.compared.actual

    @property
    def truth(self) -> Float[np.ndarray, "..."]:
        return self.compared.truth

    def to(self, predicted: Num[np.ndarray, "..."], exactly: Num[np.ndarray, "..."] | None = None) -> Distance:
        """The port's distance from other values: the truth, or what a mutant computes.

        The floor is the check's own, with half an ulp of the larger of truth and prediction: a mutant may compute
        larger numbers than the golden holds. Where both sides are not finite they agree.

        Args:
            predicted: at the precision of the port.
            exactly: the same in float64. What separates the two is the mutant's own rounding, as PyTorch's is the
                golden's: it counts as 1 as well.
        """
        actual, expected = _finite_sides(self.actual, predicted)
        counted, axis = self.compared.scope.counted, self.tap.position_axis
        error = metrics.errors(actual, expected, axis, counted)
        scale_rms, scale_max = metrics.per_position(self.truth, axis)
        own = _widened(self.compared.noise, predicted, exactly, axis)
        unit = metrics.UNIT_ROUNDOFF[self.compared.rounding or self.precision]
        scales = np.maximum(error.scale_rms, scale_rms), np.maximum(error.scale_max, scale_max)
        rms, largest, _ = multiples(error, own, scales, unit)
        allowed = self.limit.of(self.compared.noise, counted)
        per_row = error.rms.size and expected.size / error.rms.size
        return Distance(
            rms_each=rms,
            max_each=largest / allowed.max,
            square_each=np.square(error.rms) * per_row,
            beyond=allowed.beyond(rms, largest),
        )

    def instead(self, predicted: Num[np.ndarray, "..."]) -> Observation:
        """The same with other values in place of the port's."""
        return Observation(replace(self.compared, actual=predicted), self.precision, self.limit)

    def part(self, tokens: slice) -> Observation:
        """The same at some of its tokens."""
        c, along = self.compared, [slice(None)] * self.actual.ndim
        along[self.tap.position_axis] = tokens
        noise = c.noise and c.noise.at(tokens)
        scope = replace(c.scope, counted=c.scope.counted[:, tokens], positions=c.scope.positions[tokens])
        part = replace(c, actual=c.actual[tuple(along)], truth=c.truth[tuple(along)], noise=noise, scope=scope)
        return Observation(part, self.precision, self.limit)

    def whole_rows(self) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Actual and golden, float64, without the rows that have padding; with them where every row has some."""
        rows = self.compared.scope.counted.all(axis=1)
        rows = rows if rows.any() else np.ones_like(rows)
        return np.asarray(self.actual, np.float64)[rows], self.truth[rows]

    @cached_property
    def from_golden(self) -> Distance:
        return self.to(self.truth)

    @property
    def faulty(self) -> bool:
        return not self.from_golden.within


def _widened(
    noise: Floor | None,
    predicted: Num[np.ndarray, "..."],
    exactly: Num[np.ndarray, "..."] | None,
    position_axis: int,
) -> Floor | None:
    """The floor, raised to the rounding that separates a prediction from its exact value."""
    if exactly is None or noise is None:
        return noise
    rounding, _ = _finite_sides(predicted, exactly)
    own = metrics.per_position(rounding - _finite_sides(exactly, exactly)[0], position_axis)
    rms, largest = (np.where(np.isfinite(one), one, 0.0) for one in own)
    return replace(noise, rms=np.maximum(noise.rms, rms), max=np.maximum(noise.max, largest))


def _finite_sides(
    actual: Num[np.ndarray, "..."], predicted: Num[np.ndarray, "..."]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Both as float64, with 0 where neither is finite, and an infinite difference where one is not."""
    a, b = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    bad = ~np.isfinite(b)
    if not bad.any():
        return a, b
    both = bad & ~np.isfinite(a)
    return np.where(both, 0.0, np.where(bad, np.inf, a)), np.where(bad, 0.0, b)
