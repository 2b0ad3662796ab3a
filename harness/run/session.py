"""One case in one mode: hands goldens to the port, takes its values, and compares them as they come.

Nothing is kept: a value is compared when it arrives and then dropped, so that memory holds one stage's taps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from harness.comparison import Noise, Place, TapResult, compare
from harness.golden import CaseEntry
from harness.run.port import Declarations
from harness.run.precision import round_to
from harness.run.tapping import fired_twice, refuse_tracer
from harness.store import Golden
from harness.taps import Tap, recorded_inputs
from harness.tolerances import Limit

# Two layers' worth: forward and replay of a case ask for the same taps, one after the other.
CACHED_TAPS = 48


class GoldenSource:
    """Golden values at one precision, each read and verified once for forward and replay together."""

    def __init__(self, golden: Golden, precision: str) -> None:
        self.golden = golden
        self.precision = precision
        self.taps: Mapping[str, Tap] = {tap.name: tap for tap in golden.manifest.taps}
        self.truth = functools.lru_cache(CACHED_TAPS)(golden.tap)
        self.rounded = functools.lru_cache(CACHED_TAPS)(self._rounded)
        self._noise = functools.cache(self._all_noise)
        self._typical = functools.cache(self._median_noise)

    def _rounded(self, case: str, tap: str) -> Num[np.ndarray, "..."]:
        return round_to(self.truth(case, tap), self.precision)

    def noise(self, case: CaseEntry, mode: str, tap: str) -> Noise | None:
        """PyTorch's own error at a tap; None at float64, for which none is recorded."""
        if self.precision == "float64":
            return None
        return Noise(self._noise(mode)[case.name][case.taps.index(tap)], self._typical(mode)[tap])

    def _all_noise(self, mode: str) -> dict[str, Float[np.ndarray, "tap 2 batch position"]]:
        cases = self.golden.manifest.cases
        return {case.name: self.golden.noise(case.name, self.precision, mode) for case in cases}

    def _median_noise(self, mode: str) -> dict[str, Float[np.ndarray, "2"]]:
        """By tap, the median over the positions of every case: a selection of cases changes no verdict."""
        by_tap: dict[str, list[np.ndarray]] = {}
        for case in self.golden.manifest.cases:
            for tap, noise in zip(case.taps, self._noise(mode)[case.name], strict=True):
                by_tap.setdefault(tap, []).append(noise.reshape(2, -1))
        return {tap: np.median(np.concatenate(noise, axis=1), axis=1) for tap, noise in by_tap.items()}


@dataclass(frozen=True, eq=False)
class Judgement:
    """How a session compares, and where its results go."""

    limit: Limit
    declared: Declarations
    sink: Callable[[TapResult], None]


class CaseSession:
    """The tap of one case in one mode. Implements `harness.run.tapping.Session`."""

    def __init__(self, source: GoldenSource, case: CaseEntry, mode: str, judgement: Judgement) -> None:
        self.replaying = mode == "replay"
        self._source = source
        self._case = case
        self._mode = mode
        self._judgement = judgement
        without = judgement.declared.without
        self._wanted = {n: source.taps[n] for n in case.taps if source.taps[n].kind not in without}
        self._by_stage: dict[str, list[Tap]] = {}
        for tap in self._wanted.values():
            self._by_stage.setdefault(tap.stage, []).append(tap)
        self._spanning = _spanning(source, case, judgement.declared)
        self._seen: set[str] = set()

    @property
    def expected(self) -> int:
        """How many comparisons this session makes where the port keeps its contract."""
        return len(self._wanted)

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Compare a value; in replay, hand back the golden."""
        refuse_tracer(name, value)
        self._compare(name, value)
        tap = self._wanted.get(name)
        if not self.replaying or tap is None:
            return value
        golden = self._source.rounded(self._case.name, name)
        return jnp.asarray(golden, value.dtype) if golden.shape == value.shape else value

    def goldens(self, stage: str) -> dict[str, np.ndarray]:
        taps = self._by_stage.get(stage, ())
        return {tap.kind: self._source.rounded(self._case.name, tap.name) for tap in taps}

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self._compare(f"{stage}.{kind}" if stage else kind, value)

    def finish(self) -> None:
        """Report the taps that never came."""
        for name, tap in self._wanted.items():
            if name not in self._seen:
                self._judgement.sink(self._place(tap).result("missing", "tapped once", "never tapped"))

    def _compare(self, name: str, value: jax.Array | np.ndarray) -> None:
        if name in self._seen:
            raise fired_twice(name)
        self._seen.add(name)
        tap = self._source.taps.get(name)
        if tap is None:
            invented = Place(self._case.name, self._source.precision, self._mode, Tap(name, (), ()))
            self._judgement.sink(invented.result("extra", "a tap of the golden", f"a tap called {name}"))
            return
        if name not in self._wanted:
            return  # not recorded at this case's level, or declared as not exposed
        self._judgement.sink(
            compare(
                self._place(tap),
                np.asarray(value),
                self._source.truth(self._case.name, name),
                self._source.noise(self._case, "forward" if name in self._spanning else self._mode, name),
                self._judgement.limit,
                self._dtype(tap.kind),
            )
        )

    def _place(self, tap: Tap) -> Place:
        return Place(self._case.name, self._source.precision, self._mode, tap)

    def _dtype(self, kind: str) -> str:
        """A port may be wider than the precision by design; nothing is wider than float64."""
        precision = self._source.precision
        return precision if precision == "float64" else self._judgement.declared.dtypes.get(kind, precision)


def _spanning(source: GoldenSource, case: CaseEntry, declared: Declarations) -> frozenset[str]:
    """Taps that span several recorded operations in this port, since taps between are not exposed or not replaced.

    Their replay error is the rounding of all those operations; PyTorch's replay noise is of the last one alone.
    The forward noise, rounding gathered from the first layer on, is the recorded figure that holds them all.
    """
    unreplaced = {*declared.without, *declared.recorded_only}
    if not unreplaced:
        return frozenset()
    inputs = recorded_inputs(tuple(source.taps.values()), case.taps)
    return frozenset(tap for tap in case.taps if any(source.taps[n].kind in unreplaced for n in inputs[tap]))
