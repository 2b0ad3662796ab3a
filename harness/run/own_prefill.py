"""Mode `prefill`: the port's own single pass over the tokens of a case with a KV cache, without the cache.

Its values are kept until those of the case's calls have come, tap by tap; of a port that works layer by layer that
is one layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Num

from harness.comparison import Place, compare
from harness.golden import CaseEntry
from harness.results import TapResult
from harness.run.choices import choosing, replacement
from harness.run.source import GoldenSource
from harness.run.tapping import Goldens, TapFunction, fired_twice, going_on, refuse_tracer, whole
from harness.taps import CACHE_KINDS, CACHED, PINNED, Tap, name_of
from harness.tolerances import Limit, limit

EXPECTED = "in the port's own prefill of the same tokens"


class OwnPrefill:
    """The tap of that pass (a `harness.run.tapping.Session`), with whose values those of the calls are compared.

    Args:
        wanted: the taps of the case that the port hands over.
        silent: those of which this mode says nothing.
        pinning: whether the port's choices are pinned (`harness.run.choices`).
    """

    replaying = False
    mode = "prefill"
    expected = 0  # nothing is compared before the calls have come

    def __init__(
        self,
        source: GoldenSource,
        case: CaseEntry,
        wanted: Mapping[str, Tap],
        limit: Limit,
        limit_at: Callable[[str], Limit] = limit,
        silent: frozenset[str] = frozenset(),
        pinning: bool = False,
    ) -> None:
        self._source, self.case, self._wanted, self._limit = source, case, wanted, limit
        self._limit_at, self._pinning = limit_at, pinning
        self._seen: set[str] = set()
        self._values: dict[str, np.ndarray] = {}
        self._readers: dict[str, int] = {}
        for tap in wanted.values():
            if tap.name not in silent and self.wants(tap):
                self._readers[_uncached(tap)] = self._readers.get(_uncached(tap), 0) + 1

    def calls(self) -> list[TapFunction]:
        """One call, whatever the case has."""
        return [self]

    def finish(self) -> None:
        """What never came is reported where the calls' value finds nothing to be compared with."""

    def wants(self, tap: Tap) -> bool:
        """Whether the pass has what this tap is compared with: a cache, where the port taps what goes into it."""
        return tap.name in self._wanted and _uncached(tap) in self._wanted

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Keep a value."""
        refuse_tracer(name, value)
        self._keep(name, value)
        tap = self._wanted.get(name)
        pinned = self._pinning and tap is not None and tap.kind in PINNED
        golden = self._source.rounded(self.case.name, name) if pinned else None
        return going_on(name, golden, value, replaying=False)

    def goldens(self, stage: str) -> Goldens:
        """As a prompt's tap has them, so that both share a compilation."""
        others = CACHE_KINDS | {"logits"}  # which a call without a cache has not, and which the check itself taps
        taps = (tap for tap in self._wanted.values() if tap.stage == stage and tap.kind not in others)
        return {tap.kind: replacement(self._source, self.case.name, tap, False, self._pinning) for tap in taps}

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self._keep(name_of(stage, kind), value)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        """The calls that are compared with it say that themselves: see `result`."""

    def result(
        self, tap: Tap, actual: Num[np.ndarray, "..."], dtype: str, rounding: str | None = None
    ) -> TapResult:
        """Compare what all calls together gave for a tap; a cache is what it holds after the last call."""
        place = Place(self.case.name, self._source.precision, self.mode, tap, rounding)
        own = self._taken(_uncached(tap))
        if own is None:
            return place.result("missing", f"tapped {EXPECTED}", "never tapped")
        if own.shape != actual.shape:
            return place.result("shape", f"{actual.shape}, as in its calls", f"{own.shape} {EXPECTED}")
        if own.dtype != actual.dtype:
            return place.result("dtype", f"{actual.dtype.name}, as in its calls", f"{own.dtype.name} {EXPECTED}")
        scope = self._source.scope(self.case.name)
        largest = self._source.largest(self.case.name, tap.name)
        if largest and actual.shape != largest.shape:
            return place.result("shape", str(largest.shape), str(actual.shape))
        expected = np.asarray(largest.of(own) if largest else own, np.float64)
        if not np.isfinite(np.moveaxis(expected, tap.position_axis, 1)[scope.counted]).all():
            return place.result("nonfinite", f"finite values {EXPECTED}", "NaN or infinity there")
        noise = self._source.at(rounding).noise(self.case, "forward", tap.name)
        limit, choices = self._limit if rounding is None else self._limit_at(rounding), None
        if tap.kind in PINNED:
            choices = choosing(self._source, self.case, tap.name, "forward", limit, rounding)
        if largest is None:
            return compare(place, actual, expected, noise, limit, dtype, scope, choosing=choices)
        result = compare(place, largest.of(actual), expected, noise, limit, dtype, scope, lambda *_: None)
        return largest.named(result, scope.positions)

    def _keep(self, name: str, value: jax.Array | np.ndarray) -> None:
        if name in self._seen:
            raise fired_twice(name)
        self._seen.add(name)
        if name in self._readers:
            self._values[name] = whole(value)

    def _taken(self, name: str) -> np.ndarray | None:
        """A value, which is let go of when it has been asked for as often as it will be."""
        self._readers[name] -= 1
        return self._values.get(name) if self._readers[name] else self._values.pop(name, None)


def _uncached(tap: Tap) -> str:
    """The tap with whose value of all tokens a tap is compared: of a cache, what goes into it."""
    return name_of(tap.stage, CACHED.get(tap.kind, tap.kind))
