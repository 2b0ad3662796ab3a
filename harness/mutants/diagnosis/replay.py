"""What a port did on golden inputs, and how far that is from the golden or from a mutant.

At one tap; at one stage of one case, with the sorts of calls in which it may be right or wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Num

from harness import metrics
from harness.along import spans_of
from harness.calibration import Floor
from harness.comparison import multiples
from harness.golden import CaseEntry
from harness.metrics import PerPosition
from harness.mutants.bench import EMBED, HEAD
from harness.run.comparing import Compared
from harness.taps import CACHE_KINDS, Tap
from harness.tolerances import Allowed, Limit

FAULTY = ("introduced", "nonfinite")  # verdicts of what is wrong on golden inputs


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
        return self._between(self.actual, predicted, exactly)

    def against(
        self, predicted: Num[np.ndarray, "..."], exactly: Num[np.ndarray, "..."] | None = None
    ) -> tuple[Distance, Bool[np.ndarray, "batch position"]]:
        """The distance from what a mutant computes, as `to`; and where either of them is wrong.

        Most mutants leave most taps as they are: what the first one made of this tap is looked at once.
        """
        if exactly is None and self._first and np.array_equal(self._first[0][0], predicted):
            return self._first[0][1]
        wrong = self.from_golden.beyond | self._between(predicted, self.truth).beyond
        found = self.to(predicted, exactly), wrong
        if exactly is None and not self._first:
            self._first.append((predicted, found))
        return found

    def _between(
        self,
        actual: Num[np.ndarray, "..."],
        predicted: Num[np.ndarray, "..."],
        exactly: Num[np.ndarray, "..."] | None = None,
    ) -> Distance:
        """How far the one is from the other."""
        actual, expected = _finite_sides(actual, predicted)
        axis = self.tap.position_axis
        error = metrics.errors(actual, expected, axis, self.compared.scope.counted)
        scale_rms, scale_max = self._scales
        own = _widened(self.compared.noise, predicted, exactly, axis)
        unit = metrics.UNIT_ROUNDOFF[self.compared.rounding or self.precision]
        scales = np.maximum(error.scale_rms, scale_rms), np.maximum(error.scale_max, scale_max)
        rms, largest, _ = multiples(error, own, scales, unit)
        per_row = error.rms.size and expected.size / error.rms.size
        return Distance(
            rms_each=rms,
            max_each=largest / self._allowed.max,
            square_each=np.square(error.rms) * per_row,
            beyond=self._allowed.beyond(rms, largest),
        )

    @cached_property
    def _first(self) -> list[tuple[np.ndarray, tuple[Distance, np.ndarray]]]:
        """What was predicted first, and what came of it."""
        return []

    @cached_property
    def _scales(self) -> tuple[PerPosition, PerPosition]:
        """The golden's size, rms and max."""
        return metrics.per_position(self.truth, self.tap.position_axis)

    @cached_property
    def _allowed(self) -> Allowed:
        return self.limit.of(self.compared.noise, self.compared.scope.counted)

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
    rms, largest = (np.where(np.isfinite(error), error, 0.0) for error in own)
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


def stage_of(tap: Tap) -> str:
    """The stage of the decoder that computes a tap: `embed`, `layers.3` or `head`."""
    return tap.stage or (EMBED if tap.kind == "embed" else HEAD)


def sort_of(case: CaseEntry, call: int = 0) -> str:
    """What sort of call this is, as a port may have code of its own for it."""
    rows = "a batch's " if case.shape[0] > 1 else ""
    if not case.cached:
        return f"{rows}prompts"
    if call == 0:
        return f"{rows}prefill"
    return f"{rows}chunks" if case.calls[call] > 1 else f"{rows}steps"


@dataclass(frozen=True, eq=False)
class StageReplay:
    """The port at one stage of one case: all the taps that it exposes there, in data-flow order.

    Attributes:
        only: the one call that it is about; None where it is about all of them.
        before: what the port's caches hold before that call, by kind.
    """

    case: CaseEntry
    stage: str
    taps: Mapping[str, Observation]
    only: int | None = None
    before: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def faulty(self) -> tuple[str, ...]:
        """The kinds that are wrong on golden inputs."""
        return tuple(kind for kind, seen in self.taps.items() if seen.faulty)

    @property
    def calls(self) -> tuple[int, ...]:
        """The calls that it is about."""
        return tuple(range(len(self.case.calls) or 1)) if self.only is None else (self.only,)

    def segment(self, tap: Tap, call: int) -> slice:
        """Where a call's tokens lie along the tap's positions: a cache is there once after every call."""
        if not self.case.cached or self.only is not None:
            return slice(None)
        spans = spans_of(self.case.calls)
        if tap.kind not in CACHE_KINDS:
            return spans[call]
        start = sum(span.stop for span in spans[:call])
        return slice(start, start + spans[call].stop)

    def among(self, kind: str, sorts: Collection[str]) -> Bool[np.ndarray, "batch position"]:
        """The tokens of a tap that come in calls of these sorts."""
        seen = self.taps[kind]
        where = np.zeros(seen.from_golden.beyond.shape, bool)
        for call in self.calls:
            where[:, self.segment(seen.tap, call)] |= sort_of(self.case, call) in sorts
        return where

    def sorts(self, kind: str, where: Bool[np.ndarray, "batch position"]) -> frozenset[str]:
        """The sorts of calls in which something holds at some token of a tap."""
        tap = self.taps[kind].tap
        return frozenset(
            sort_of(self.case, call) for call in self.calls if where[:, self.segment(tap, call)].any()
        )

    def call(self, kind: str) -> StageReplay:
        """The first call in which a kind is wrong, by itself: in replay no call depends on what came before it."""
        tap, wrong = self.taps[kind].tap, self.taps[kind].from_golden.beyond
        first = next(call for call in self.calls if wrong[:, self.segment(tap, call)].any())
        taps = {name: seen.part(self.segment(seen.tap, first)) for name, seen in self.taps.items()}
        caches = {name: seen for name, seen in self.taps.items() if name in CACHE_KINDS and first > 0}
        before = {name: seen.part(self.segment(seen.tap, first - 1)).actual for name, seen in caches.items()}
        return replace(self, taps=taps, only=first, before=before)
