"""Recorded noise -> PyTorch's own error, place by place, and how well it is known. The method: calibration.md.

PyTorch's error is an estimate of its own size, from few draws and, at some positions, few numbers. What is known
of it decides the limit (`harness.tolerances`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float

from harness.golden import statistic
from harness.metrics import PerPosition
from harness.taps import kind_of

MOST_SHARED = 60.0  # degrees of freedom: what several places have in common is never trusted further
MOST_COMMON = 1e4  # beyond this what the numbers of one error have in common is not told from nothing at all
EXACT = 1e9  # degrees of freedom of what is not estimated at all
FEWEST = 8  # places, which a fit needs: fewer say nothing of how they vary

UNEVEN = 8.0  # one in so many numbers of an error may be its largest, where that cannot be fitted
LEAST, STEPS = 1 / 256, 16  # the least share that is fitted, and in how many halvings
# Of the largest of 1, 2, 4, 8 squared Gaussian numbers, and so on to 1,024.
DOF_OF_LARGEST = (1.0, 1.868, 3.322, 5.552, 8.699, 12.85, 18.05, 24.33, 31.70, 40.16, 49.63)

RMS, MAX, NUMBERS, SPREAD = map(statistic, ("rms", "max", "numbers", "spread"))


@dataclass(frozen=True, eq=False)
class Floor:
    """PyTorch's own error at one tap, per position, and what is known of it.

    Attributes:
        rms, max: its size, estimated.
        dof: effective degrees of freedom of one error: of PyTorch's, and of a port's.
        known: degrees of freedom of the estimate.
        numbers: in how many numbers an error effectively is.
        contested: how many of them may be the largest.
        known_max: degrees of freedom of the estimate of the largest.
        recorded_max: PyTorch's own largest errors, as they were recorded.
        single: where a token is a call of its own: XLA sums the products of a vector otherwise (calibration.md).
    """

    rms: PerPosition
    max: PerPosition
    dof: PerPosition
    known: PerPosition
    numbers: PerPosition
    contested: PerPosition
    known_max: PerPosition
    recorded_max: PerPosition
    single: Bool[np.ndarray, "batch position"]

    @classmethod
    def nowhere(cls, shape: tuple[int, int]) -> Floor:
        """Nothing is known anywhere: to be filled in."""
        return cls(*(np.full(shape, value) for value in (0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, False)))

    @cached_property
    def estimated(self) -> Bool[np.ndarray, "batch position"]:
        """Where it is an estimate: PyTorch is not exact there."""
        return np.asarray(self.dof < EXACT)

    def at(self, tokens: slice) -> Floor:
        """At some of the positions: the same object for the same ones, whose limits are worked out once."""
        return self if tokens == slice(None) else _part(self, tokens.start, tokens.stop, tokens.step)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Its attributes, in their order."""
        return tuple(getattr(self, field.name) for field in fields(self))


@lru_cache(maxsize=2048)
def _part(floor: Floor, *tokens: int | None) -> Floor:
    return Floor(*(values[:, slice(*tokens)] for values in floor.arrays))


@dataclass(frozen=True, eq=False)
class Recorded:
    """The recorded noise of one case at one precision, of one kind.

    Attributes:
        taps: their names.
        noise: float32 [tap, statistic, batch, position].
        counted: False at padding.
        draws: how often PyTorch's error was drawn.
        single: where a token is a call of its own; see `Floor`.
    """

    taps: Sequence[str]
    noise: Float[np.ndarray, "tap statistic batch position"]
    counted: Bool[np.ndarray, "batch position"]
    draws: int
    single: Bool[np.ndarray, "batch position"]


def calibrated(cases: Mapping[str, Recorded]) -> dict[str, dict[str, Floor]]:
    """By case and tap, what PyTorch's own error is.

    Every kind of tap is calibrated over all cases and layers of the golden, so that a selection of cases changes
    no verdict.
    """
    by_case: dict[str, dict[str, Floor]] = {name: {} for name in cases}
    kinds = dict.fromkeys(kind_of(tap) for case in cases.values() for tap in case.taps)
    for kind in kinds:
        groups = {name: [i for i, tap in enumerate(c.taps) if kind_of(tap) == kind] for name, c in cases.items()}
        parts = {name: _Part.of(cases[name], taps) for name, taps in groups.items() if taps}
        common, contest = _common_dof(parts.values()), _contest(parts.values())
        shared = _shared_dof(parts.values(), common)
        for name, part in parts.items():
            floors = part.floors(common, shared, contest)
            by_case[name] |= dict(zip((cases[name].taps[i] for i in groups[name]), floors, strict=True))
    return by_case


@dataclass(frozen=True, eq=False)
class _Part:
    """One kind of tap in one case: [layer, batch, position]."""

    rms: np.ndarray
    max: np.ndarray
    numbers: np.ndarray
    spread: np.ndarray
    real: np.ndarray
    draws: int
    single: np.ndarray

    @classmethod
    def of(cls, case: Recorded, taps: list[int]) -> _Part:
        noise = case.noise[taps].astype(np.float64)
        # Where PyTorch is exact, or nothing is counted, there is nothing to estimate from.
        real = (noise[:, RMS] > 0) & case.counted
        rms, largest, numbers, spread = (noise[:, statistic] for statistic in (RMS, MAX, NUMBERS, SPREAD))
        return cls(rms, largest, numbers, spread, real, case.draws, case.single)

    def dof(self, common: float) -> np.ndarray:
        """Of one draw: an error in so many numbers that also vary together."""
        return np.asarray(1 / (1 / self.numbers + 1 / common))

    def logs(self, dof: np.ndarray) -> np.ndarray:
        """The logarithm of the variance, without the bias that an estimate's has."""
        return np.asarray(self.log_squares(self.rms) + 1 / (dof * self.draws))

    def log_squares(self, values: np.ndarray) -> np.ndarray:
        """The logarithm of values, squared; 0 where nothing is real."""
        return np.asarray(2 * np.log(values, out=np.zeros_like(values), where=self.real))

    def expected(self, logs: np.ndarray) -> np.ndarray:
        """What a layer and a position have in common with the others: log variance = layer + position."""
        weight = self.real.astype(np.float64)

        def mean(axes: tuple[int, ...]) -> np.ndarray:
            total, count = (values.sum(axes, keepdims=True) for values in (logs * weight, weight))
            return np.asarray(total / np.maximum(count, 1))

        return np.asarray(mean((1, 2)) + mean((0,)) - mean((0, 1, 2)))

    def scatter(self, logs: np.ndarray) -> float:
        """The squares of what logarithms differ by from what is `expected` of them, added up."""
        return float(np.square(logs - self.expected(logs))[self.real].sum())

    @property
    def freedom(self) -> int:
        """Places, less what `expected` fits to them."""
        layers, positions = self.real.any((1, 2)).sum(), self.real.any(0).sum()
        return int(max(self.real.sum() - layers - positions + 1, 0))

    def floors(self, common: float, shared: float, contest: _Contest) -> Iterator[Floor]:
        """The estimate of each layer: its own, drawn towards what it has in common with the others."""
        dof = self.dof(common)
        logs, own = self.logs(dof), dof * self.draws
        weight = shared if self.freedom >= FEWEST else 0.0
        pooled = (weight * np.exp(self.expected(logs)) + own * np.square(self.rms)) / (weight + own)
        peers = self.real.any(0) & (weight > 0)  # one that is exact by luck has what the others have
        rms = np.where(self.real | peers, np.sqrt(pooled), self.rms)
        numbers, known = self.numbers, own + weight
        contested = np.clip(contest.share * numbers, 1.0, numbers)
        largest = self.max * np.divide(rms, self.rms, out=np.ones_like(rms), where=self.real)
        known_max = known
        if weight and contest.shared is not None:
            own_max = self.draws * _dof_of_largest(contested)
            expected = np.exp(self.expected(self.log_squares(self.max) + np.where(self.real, 1 / own_max, 0.0)))
            known_max = contest.shared + own_max
            pooled = (contest.shared * expected + own_max * np.square(self.max)) / known_max
            largest = np.where(self.real | peers, np.sqrt(pooled), self.max)
        # Where PyTorch is exact in every layer, a port is held to half an ulp: that is known, and not estimated.
        exact = ~(self.real | peers)
        dof, known, numbers, contested, known_max = (
            np.where(exact, EXACT, values) for values in (dof, known, numbers, contested, known_max)
        )
        single = np.broadcast_to(self.single, rms.shape)
        for floor in zip(rms, largest, dof, known, numbers, contested, known_max, self.max, single, strict=True):
            yield Floor(*floor)


def _common_dof(parts: Iterable[_Part]) -> float:
    """How far the numbers of one error vary together, in degrees of freedom.

    Independent errors in n numbers have a mean square whose logarithm varies by `_variance(n)` from draw to draw.
    What it varies more, over all places together, they have in common: 1 / dof = 1 / n + 1 / common.
    """
    several = [part for part in parts if part.draws > 1]
    numbers = np.concatenate([part.numbers[part.real] for part in several] or [[]])
    spread = np.concatenate([part.spread[part.real] for part in several] or [[]])
    if len(numbers) < FEWEST:
        return MOST_SHARED
    # Weighted by one over the variance of such an estimate, with 1 / dof = 1 / n + t: a quadratic equation in t.
    weight, alone = np.square(numbers), 1 / numbers
    total, first = weight.sum(), (weight * alone).sum()
    left = 2 * (first + (weight * np.square(alone)).sum()) - (weight * spread).sum()
    linear = total + 2 * first
    t = (np.sqrt(max(linear**2 - 2 * total * left, 0.0)) - linear) / (2 * total)
    return float(1 / max(t, 1 / MOST_COMMON))


def _shared_dof(parts: Iterable[_Part], common: float) -> float:
    """How much `expected` is worth, in degrees of freedom: all that the estimates vary beyond their own spread.

    Source: G. K. Smyth, Linear models and empirical Bayes methods (2004), section 6.2.
    """
    parts = [part for part in parts if part.freedom >= FEWEST]
    if not parts:
        return 0.0
    dofs = [part.dof(common) for part in parts]
    squares = sum(part.scatter(part.logs(dof)) for part, dof in zip(parts, dofs, strict=True))
    noise = sum(float(_variance(dof[p.real] * p.draws).sum()) for p, dof in zip(parts, dofs, strict=True))
    freedom, places = sum(part.freedom for part in parts), sum(int(part.real.sum()) for part in parts)
    return _worth(squares / freedom - noise / places)


@dataclass(frozen=True)
class _Contest:
    """Which numbers of an error may be its largest.

    Attributes:
        share: of the numbers in which the error effectively is. They are not all of one size: of a product of two
            noisy factors, or of keys and values that few queries see, the largest comes of few.
        shared: how much `expected` is worth for the largest, in degrees of freedom; None where nothing was fitted.
    """

    share: float
    shared: float | None


def _contest(parts: Iterable[_Part]) -> _Contest:
    """The share that explains how much PyTorch's largest errors vary from place to place.

    The largest of k Gaussian errors, squared, varies the less the more there are (`_dof_of_largest`). What it
    varies beyond what a layer and a position have in common is what k of them vary: from that, k.
    """
    parts = [part for part in parts if part.freedom >= FEWEST]
    if not parts:
        return _Contest(1 / UNEVEN, None)
    places: Counter[tuple[float, int]] = Counter()
    for part in parts:
        near, count = np.unique(np.round(8 * np.log2(part.numbers[part.real])) / 8, return_counts=True)
        places.update({(number, part.draws): n for number, n in zip(near.tolist(), count.tolist(), strict=True)})
    seen = sum(part.scatter(part.log_squares(part.max)) for part in parts) / sum(part.freedom for part in parts)
    logs_of_numbers, draws = np.array(list(places), float).T
    weight = np.array(list(places.values()))

    def varies(share: float) -> float:
        dof = draws * _dof_of_largest(np.maximum(share * np.exp2(logs_of_numbers), 1.0))
        return float((_variance(dof) * weight).sum() / weight.sum())

    low, high = np.log(LEAST), 0.0
    for _ in range(STEPS):  # it varies less where the share is larger
        middle = (low + high) / 2
        low, high = (middle, high) if varies(np.exp(middle)) > seen else (low, middle)
    share = float(np.exp(low))
    return _Contest(share, _worth(seen - varies(share)))


def _dof_of_largest(numbers: np.ndarray) -> np.ndarray:
    """The degrees of freedom of the largest of n squared Gaussian numbers: 2 (mean / standard deviation)^2.

    From the integrals of its distribution, erf(sqrt(x / 2))^n, at powers of two (`tests/test_calibration.py`).
    """
    return np.asarray(np.interp(np.log2(numbers), np.arange(len(DOF_OF_LARGEST)), DOF_OF_LARGEST))


def _variance(dof: np.ndarray) -> np.ndarray:
    """The variance of the logarithm of the mean square of so many Gaussian numbers.

    It is trigamma(dof / 2), to second order: 9 % too small at dof = 2, and 2 % at 4; a hundred times as fast.
    """
    return np.asarray(2 / dof + 2 / np.square(dof))


def _worth(beyond: float) -> float:
    """What is common to places is worth, in degrees of freedom; they vary so much beyond their own spread."""
    if beyond <= 0:
        return MOST_SHARED
    return min(MOST_SHARED, float((1 + (1 + 2 * beyond) ** 0.5) / beyond))  # the inverse of `_variance`
