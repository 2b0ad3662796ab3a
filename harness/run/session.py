"""One case in one pass: hands goldens to the port, takes its values, and compares them as they come.

Nothing is kept: a value is compared when it arrives (the values of several calls, when the last has come) and then
dropped, so that memory holds one stage's taps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np

from harness.comparison import Place, compare
from harness.corpus import spans_of
from harness.errors import shortened
from harness.golden import CaseEntry
from harness.results import Choices, TapResult
from harness.run.calls import CallSession, joined, misshapen
from harness.run.choices import choosing, given, pins, scores_of, unpinned, with_expert
from harness.run.judgement import Compared, Further, Judgement
from harness.run.source import GoldenSource
from harness.run.tapping import TapFunction, fired_twice, going_on, refuse_tracer, whole
from harness.run.wanted import spanning, wanted_taps
from harness.scope import Scope
from harness.taps import CACHE_KINDS, OPTIONAL, PINNED, Tap, kind_of, name_of

MOST_OF_A_NAME = 200  # of a tap that a port invents


class CaseSession:
    """The tap of one case, on its own activations or replaying. Implements `harness.run.tapping.Session`.

    Args:
        mode: `forward` or `replay`.
        further: what else the values are compared with.
        golden_too: whether they are compared with the case's golden at all.
    """

    def __init__(
        self,
        source: GoldenSource,
        case: CaseEntry,
        mode: str,
        judgement: Judgement,
        further: Sequence[Further] = (),
        golden_too: bool = True,
    ) -> None:
        self.replaying = mode == "replay"
        self._source = source
        self.case = case
        self._mode = mode
        self._judgement = judgement
        self._further, self._golden_too = tuple(further), golden_too
        self._wanted = wanted_taps(source, case, judgement.declared)
        self._by_stage: dict[str, list[Tap]] = {}
        for tap in self._wanted.values():
            if tap.name != "logits":  # the check itself taps what forward returns
                self._by_stage.setdefault(tap.stage, []).append(tap)
        self._spanning = spanning(source, case, judgement.declared)
        self._pins = pins(source, judgement.declared)
        self._unpinned = unpinned(source, case, judgement.declared, judgement.limit)
        self._silent = self._unpinned.silent(mode)
        self._seen: set[str] = set()
        self._spans = spans_of(case.calls or (case.shape[1],))
        self._values: dict[str, list[np.ndarray]] = {}
        self._rounding: Mapping[str, str] = {}

    @property
    def expected(self) -> int:
        """How many comparisons this session makes where the port keeps its contract."""
        return sum(len(self._modes(tap)) for tap in self._wanted.values())

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Compare a value; in replay, hand back the golden."""
        refuse_tracer(name, value)
        self._compare(name, value)
        return going_on(name, self.golden(name), value, self.replaying)

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
        values.append(whole(value))
        if len(values) == len(self._spans):
            self._compare(name, *self._values.pop(name))

    def golden(self, name: str) -> np.ndarray | None:
        """What takes the place of a tap in replay, or pins it; None where the port's own value goes on."""
        tap = self._wanted.get(name)
        if tap is None or name == "logits" or not (self.replaying or (self._pins and tap.kind in PINNED)):
            return None
        return self._source.rounded(self.case.name, name)

    def goldens(self, stage: str) -> dict[str, np.ndarray]:
        return {
            tap.kind: given(self._source, self.case.name, tap, self.replaying, self._pins)
            for tap in self._by_stage.get(stage, ())
        }

    def expect(self, stage: str) -> None:
        """Read what a stage's taps will be compared with; `head` is the last one."""
        last = [name for name in ("final_norm", "logits") if name in self._wanted]
        taps = [tap.name for tap in self._by_stage.get(stage, ())]
        self._source.read(self.case.name, last if stage == "head" else taps, self.replaying)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        self._rounding = rounding

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
            for mode in self._modes(tap):
                self._judgement.sink(replace(result, mode=mode))

    def _modes(self, tap: Tap) -> tuple[str, ...]:
        """The modes in which a tap is compared."""
        if tap.name in self._silent:
            return ()
        own = (self._mode,) if self._golden_too else ()
        return (*own, *(other.mode for other in self._further if other.wants(tap)))

    def _compare(self, name: str, *values: jax.Array | np.ndarray) -> None:
        """Compare a tap's values, one for each call."""
        if name in self._seen:
            raise fired_twice(name)
        self._seen.add(name)
        tap = self._source.taps.get(name)
        if tap is None and kind_of(name) in OPTIONAL:
            return
        if tap is None:
            mode = self._mode if self._golden_too else self._further[0].mode
            called = shortened(name, MOST_OF_A_NAME)
            invented = Place(self.case.name, self._source.precision, mode, Tap(called, (), ()))
            self._judgement.sink(invented.result("extra", "a tap of the golden", f"a tap called {called}"))
            return
        if name not in self._wanted:
            return  # not recorded at this case's level, or declared as not exposed
        for result in self._results(tap, [whole(value) for value in values]):
            self._judgement.sink(result)

    def _results(self, tap: Tap, values: list[np.ndarray]) -> Iterator[TapResult]:
        if tap.name in self._silent:
            return
        refusal = self._refusal(tap, values) if self.case.cached else None
        if refusal is not None:
            yield from (replace(refusal, mode=mode) for mode in self._modes(tap))
            return
        whole = self._whole(tap, values)
        if self._golden_too:
            yield self._result(tap, values, whole)
        for other in self._further:
            if other.wants(tap):
                yield other.result(tap, whole, self._dtype(tap.kind), self._rounding.get(tap.name))

    def _refusal(self, tap: Tap, values: list[np.ndarray]) -> TapResult | None:
        """Why the values of several calls do not fit together; None where they do."""
        place, shape = self._place(tap), self._source.truth(self.case.name, tap.name).shape
        largest = self._source.largest(self.case.name, tap.name)
        shape = largest.shape if largest else shape
        dtypes = {value.dtype.name for value in values}
        if len(dtypes) > 1:
            return place.result("dtype", "one dtype in all calls", " and ".join(sorted(dtypes)))
        wrong = misshapen(tap, values, self._spans, shape)
        if wrong is not None:
            return place.result("shape", f"{shape} [{', '.join(tap.dims)}] over all calls", wrong)
        return None

    def _whole(self, tap: Tap, values: list[np.ndarray]) -> np.ndarray:
        """The value over all tokens; of a cache, what it holds after the last call."""
        if not self.case.cached:
            return values[0]
        length = self.case.shape[1]
        return values[-1][:, :length] if tap.kind in CACHE_KINDS else joined(tap, values, length)

    def _result(self, tap: Tap, values: list[np.ndarray], whole: np.ndarray) -> TapResult:
        truth = self._source.truth(self.case.name, tap.name)
        if not self.case.cached:
            return self._compared(tap, self._kept(tap, whole), self._kept(tap, truth))
        if tap.kind in CACHE_KINDS:
            return self._worst_of_cache(tap, values, truth)
        return self._compared(tap, whole, truth)

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
        rounding = self._rounding.get(tap.name)
        judgement, source = self._judgement, self._source.at(rounding)
        largest = self._source.largest(self.case.name, tap.name)
        if largest and actual.shape != largest.shape:
            return self._place(tap).result("shape", f"{largest.shape} [{', '.join(tap.dims)}]", str(actual.shape))
        statistics = largest.statistics(actual, truth) if largest else None
        actual = largest.of(actual) if largest else actual
        noise = source.noise(self.case, self._noise_of(tap.name), tap.name)
        own = noise and noise.at(tokens)
        scope, left_out = self._seen_of(tap, scope)
        if not scope.counted.any():
            return replace(self._place(tap).result("tied"), choice=left_out, calls=scope.calls)
        part = Scope(scope.counted[:, tokens], scope.positions[tokens], scope.calls)
        if actual.shape == truth.shape:
            judgement.watch(Compared(self.case, self._mode, tap, actual, truth, own, part, rounding))
        allowed = judgement.limit if rounding is None else judgement.limit_at(rounding)
        place = replace(self._place(tap), rounding=rounding)
        by = None
        if tap.kind in PINNED:
            scores = self._noise_of(scores_of(self._source, tap.name))
            by = choosing(self._source, self.case, tap.name, scores, allowed, rounding)
        found = compare(place, actual, truth, own, allowed, self._dtype(tap.kind), part, statistics, by)
        found = replace(found, choice=left_out) if left_out else found
        return largest.named(found, part.positions) if largest else with_expert(self._source, found)

    def _noise_of(self, name: str) -> str:
        """Which of PyTorch's errors a tap's are compared with."""
        return "forward" if name in self._spanning else self._mode

    def _seen_of(self, tap: Tap, scope: Scope) -> tuple[Scope, Choices | None]:
        """The tokens at which a tap says something in replay, and how many are left out, if any are."""
        unseen = self._unpinned.tokens.get(tap.name) if self.replaying else None
        if unseen is None:
            return scope, None
        found = Choices(int(scope.counted.sum()), unseen=int(unseen.sum()))
        return replace(scope, counted=scope.counted & ~unseen), found

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
