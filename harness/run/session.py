"""One case in one mode: hands goldens to the port, takes its values, and compares them as they come.

Nothing is kept: a value is compared when it arrives (the values of several calls, when the last has come) and then
dropped, so that memory holds one stage's taps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float, Num

from harness.comparison import Noise, Place, Scope, TapResult, compare
from harness.corpus import spans_of
from harness.golden import CaseEntry
from harness.run.calls import CallSession, joined, misshapen
from harness.run.port import Declarations
from harness.run.precision import round_to
from harness.run.recent import Recent
from harness.run.tapping import TapFunction, fired_twice, handed_on, refuse_tracer
from harness.store import Golden
from harness.taps import CACHE_KINDS, FULL_KINDS, Tap, name_of, recorded_inputs
from harness.tolerances import Limit

# Forward and replay of a case ask for the same taps one after the other: layer by layer, or where a port runs as a
# whole, all of them. In float64 this is a layer of 600 tokens of a 7B, or 20 tokens of all its layers.
CACHED_BYTES = 512 * 2**20


class GoldenSource:
    """Golden values at one precision, each read and verified once for forward and replay together.

    Args:
        keep: how many bytes of the latest values to keep, in float64 and as many again at the precision.
    """

    def __init__(self, golden: Golden, precision: str, keep: int = CACHED_BYTES) -> None:
        self.golden = golden
        self.precision = precision
        self.taps: Mapping[str, Tap] = {tap.name: tap for tap in golden.manifest.taps}
        self.truth = Recent(golden.tap, keep)
        self.rounded = Recent(self._rounded, keep)
        self._noise = functools.cache(self._all_noise)
        self._typical = functools.cache(self._median_noise)
        self.scope = functools.cache(self._scope)

    def forget(self) -> None:
        """Release all values."""
        self.truth.forget()
        self.rounded.forget()

    def _rounded(self, case: str, tap: str) -> Num[np.ndarray, "..."]:
        """Truth at the precision, over all positions of the case; NaN at padding, and where none is kept.

        There the port's own values go on: what it makes of padding must not reach real tokens.
        """
        value = round_to(self.truth(case, tap), self.precision)
        entry, the = self.golden.manifest.case(case), self.taps[tap]
        axis = the.position_axis
        if not (real := self.golden.case(case).mask).all():
            shape = [size if at in (0, axis) else 1 for at, size in enumerate(value.shape)]
            return np.where(real.reshape(shape), value, np.array(np.nan, value.dtype))
        if not entry.kept or the.kind in FULL_KINDS:
            return value
        shape = list(value.shape)
        shape[axis] = entry.shape[1]
        whole = np.full(shape, np.nan, value.dtype)
        np.moveaxis(whole, axis, 0)[list(entry.kept)] = np.moveaxis(value, axis, 0)
        return whole

    def _scope(self, case: str) -> Scope:
        """The tokens of a case that are compared: no padding, and the kept ones where only some are."""
        entry = self.golden.manifest.case(case)
        positions = np.asarray(entry.kept or range(entry.shape[1]))
        return Scope(self.golden.case(case).mask[:, positions], positions, entry.calls)

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
                by_tap.setdefault(tap, []).append(noise[:, self.scope(case.name).counted])
        return {tap: np.median(np.concatenate(noise, axis=1), axis=1) for tap, noise in by_tap.items()}


@dataclass(frozen=True, eq=False)
class Compared:
    """What one comparison was made of: the port's values and the golden's at the same tokens.

    Attributes:
        actual: of the port; a cache, after the call that was compared last.
        noise: PyTorch's own error; None in float64.
    """

    case: CaseEntry
    mode: str
    tap: Tap
    actual: Num[np.ndarray, "..."]
    truth: Float[np.ndarray, "..."]
    noise: Noise | None
    scope: Scope


def unseen(compared: Compared) -> None:
    """Nobody looks at the values."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """How a session compares, and where its results go.

    Attributes:
        sink: told of every result.
        watch: shown the values themselves, for who wants to look at more than a result says.
    """

    limit: Limit
    declared: Declarations
    sink: Callable[[TapResult], None]
    watch: Callable[[Compared], None] = unseen


class CaseSession:
    """The tap of one case in one mode. Implements `harness.run.tapping.Session`."""

    def __init__(self, source: GoldenSource, case: CaseEntry, mode: str, judgement: Judgement) -> None:
        self.replaying = mode == "replay"
        self._source = source
        self.case = case
        self._mode = mode
        self._judgement = judgement
        without = judgement.declared.without
        self._wanted = {n: source.taps[n] for n in case.taps if source.taps[n].kind not in without}
        self._by_stage: dict[str, list[Tap]] = {}
        for tap in self._wanted.values():
            if tap.name != "logits":  # the check itself taps what forward returns
                self._by_stage.setdefault(tap.stage, []).append(tap)
        self._spanning = _spanning(source, case, judgement.declared)
        self._seen: set[str] = set()
        self._spans = spans_of(case.calls or (case.shape[1],))
        self._values: dict[str, list[np.ndarray]] = {}

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
        return handed_on(name, self._source.rounded(self.case.name, name), value)

    def calls(self) -> list[TapFunction]:
        """A tap for each call of the case, in order."""
        if not self.case.cached:
            return [self]
        return [CallSession(self, call, span) for call, span in enumerate(self._spans)]

    def tap(self, name: str) -> Tap | None:
        return self._wanted.get(name)

    def take(self, call: int, name: str, value: jax.Array | np.ndarray) -> None:
        """Take a value of one call; a tap is compared when all of its calls have come."""
        values = self._values.setdefault(name, [])
        if call != len(values):
            return  # an earlier call did not tap it: `finish` reports it as missing
        values.append(np.asarray(value))
        if len(values) == len(self._spans):
            self._compare(name, *self._values.pop(name))

    def goldens(self, stage: str) -> dict[str, np.ndarray]:
        taps = self._by_stage.get(stage, ())
        return {tap.kind: self._source.rounded(self.case.name, tap.name) for tap in taps}

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self._compare(name_of(stage, kind), value)

    def finish(self) -> None:
        """Report the taps that never came."""
        for name, tap in self._wanted.items():
            if name in self._seen:
                continue
            place, came = self._place(tap), len(self._values.get(name, ()))
            if self.case.cached:
                result = place.result("missing", "tapped in every call", f"not tapped in call {came}")
            else:
                result = place.result("missing", "tapped once", "never tapped")
            self._judgement.sink(result)

    def _compare(self, name: str, *values: jax.Array | np.ndarray) -> None:
        """Compare a tap's values, one for each call."""
        if name in self._seen:
            raise fired_twice(name)
        self._seen.add(name)
        tap = self._source.taps.get(name)
        if tap is None:
            invented = Place(self.case.name, self._source.precision, self._mode, Tap(name, (), ()))
            self._judgement.sink(invented.result("extra", "a tap of the golden", f"a tap called {name}"))
            return
        if name not in self._wanted:
            return  # not recorded at this case's level, or declared as not exposed
        self._judgement.sink(self._result(tap, [np.asarray(value) for value in values]))

    def _result(self, tap: Tap, values: list[np.ndarray]) -> TapResult:
        truth = self._source.truth(self.case.name, tap.name)
        if not self.case.cached:
            return self._compared(tap, self._kept(tap, values[0]), self._kept(tap, truth))
        place = self._place(tap)
        dtypes = {value.dtype.name for value in values}
        if len(dtypes) > 1:
            return place.result("dtype", "one dtype in all calls", " and ".join(sorted(dtypes)))
        wrong = misshapen(tap, values, self._spans, truth.shape)
        if wrong is not None:
            return place.result("shape", f"{truth.shape} [{', '.join(tap.dims)}] over all calls", wrong)
        if tap.kind in CACHE_KINDS:
            return self._worst_of_cache(tap, values, truth)
        return self._compared(tap, joined(tap, values, self.case.shape[1]), truth)

    def _worst_of_cache(self, tap: Tap, values: list[np.ndarray], truth: np.ndarray) -> TapResult:
        """A cache is compared after every call, up to the slots that are filled; the worst is the result."""
        results = []
        for value, span in zip(values, self._spans, strict=True):
            filled = slice(span.stop)
            results.append(self._compared(tap, value[:, filled], truth[:, filled], filled))
        wrong = [call for call, result in enumerate(results) if result.verdict != "match"]
        worst = max(results, key=lambda r: (r.verdict != "match", r.rms_multiple is None, r.rms_multiple or 0.0))
        return replace(worst, calls=self.case.calls, since_call=wrong[0] if wrong else None)

    def _compared(self, tap: Tap, actual: np.ndarray, truth: np.ndarray, tokens: slice = slice(None)) -> TapResult:
        scope = self._source.scope(self.case.name)
        noise = self._source.noise(self.case, "forward" if tap.name in self._spanning else self._mode, tap.name)
        own = noise and Noise(noise.recorded[..., tokens], noise.typical)
        part = Scope(scope.counted[:, tokens], scope.positions[tokens], scope.calls)
        if actual.shape == truth.shape:
            self._judgement.watch(Compared(self.case, self._mode, tap, actual, truth, own, part))
        return compare(self._place(tap), actual, truth, own, self._judgement.limit, self._dtype(tap.kind), part)

    def _kept(self, tap: Tap, value: np.ndarray) -> np.ndarray:
        """A value at the kept positions, where only some are; one that has not all positions is left as it is."""
        axis = tap.position_axis
        if not self.case.kept or value.ndim != len(tap.dims) or value.shape[axis] != self.case.shape[1]:
            return value
        return value.take(self.case.kept, axis)

    def _place(self, tap: Tap) -> Place:
        return Place(self.case.name, self._source.precision, self._mode, tap)

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
