"""The comparison of a case in one mode: what its values are compared with, judged by, and the result of a tap.

Pure functions of what a golden has, where a comparison is made, and a port's values; checks, audits and diagnoses
use the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float, Num

from harness import along, tolerances
from harness.along import Scope, spans_of
from harness.calibration import Floor
from harness.comparison import Place, compare
from harness.golden import CaseEntry
from harness.results import Choices, TapResult
from harness.run.choices import Unpinned, choosing, pins, scores_of, unpinned, with_expert
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.taps import CACHE_KINDS, PINNED, Tap, recorded_inputs
from harness.tolerances import Limit


@dataclass(frozen=True, eq=False)
class Compared:
    """What one comparison was made of: the port's values and the golden's at the same tokens.

    Attributes:
        actual: of the port; a cache, after the call that was compared last.
        noise: PyTorch's own error; None in float64.
        rounding: the precision whose rounding it is judged by, where that is not its own.
    """

    case: CaseEntry
    mode: str
    tap: Tap
    actual: Num[np.ndarray, "..."]
    truth: Float[np.ndarray, "..."]
    noise: Floor | None
    scope: Scope
    rounding: str | None = None


Watch = Callable[[Compared], None]


def unseen(compared: Compared) -> None:
    """Nobody looks at the values."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """How a session compares, and where its results go.

    Attributes:
        sink: told of every result.
        watch: shown the values themselves, for who wants to look at more than a result says.
        limit_at: the limits at another precision, for what is judged by its rounding.
    """

    limit: Limit
    declared: Declarations
    sink: Callable[[TapResult], None]
    watch: Watch = unseen
    limit_at: Callable[[str], Limit] = tolerances.limit


class Reference(Protocol):
    """What the same values are compared with besides the case's golden."""

    @property
    def mode(self) -> str: ...

    def wants(self, tap: Tap) -> bool:
        """Whether there is something to compare this tap with."""
        ...

    def result(
        self, tap: Tap, actual: Num[np.ndarray, "..."], dtype: str, rounding: str | None = None
    ) -> TapResult:
        """Compare a tap's value over all tokens of the case; of a cache, what it holds after the last call."""
        ...


def wanted_taps(source: GoldenSource, case: CaseEntry, declared: Declarations) -> dict[str, Tap]:
    """The taps of a case that the port has to hand over."""
    return {n: source.taps[n] for n in case.taps if source.taps[n].kind not in declared.without}


def fused_taps(source: GoldenSource, case: CaseEntry, declared: Declarations) -> frozenset[str]:
    """Taps in which several recorded operations are fused in this port: those between are not exposed, or not
    replaced.

    Their replay error is the rounding of all those operations; PyTorch's replay noise is of the last one alone.
    The forward noise, rounding gathered from the first layer on, is the recorded figure that holds them all.
    """
    if not declared.own:
        return frozenset()
    inputs = recorded_inputs(tuple(source.taps.values()), case.taps)
    return frozenset(tap for tap in case.taps if any(source.taps[n].kind in declared.own for n in inputs[tap]))


@dataclass(frozen=True, eq=False)
class Comparing:
    """One case in one mode (`forward` or `replay`), against its golden.

    Attributes:
        limit_at: the limits at another precision, for what is judged by its rounding.
    """

    source: GoldenSource
    case: CaseEntry
    mode: str
    declared: Declarations
    limit: Limit
    limit_at: Callable[[str], Limit] = tolerances.limit

    @cached_property
    def wanted(self) -> Mapping[str, Tap]:
        """The taps that the port has to hand over."""
        return wanted_taps(self.source, self.case, self.declared)

    @cached_property
    def spans(self) -> Sequence[slice]:
        """The tokens of each call."""
        return spans_of(self.case.calls or (self.case.shape[1],))

    @cached_property
    def pins(self) -> bool:
        """Whether the port's choices are pinned (`harness.run.choices`)."""
        return pins(self.source, self.declared)

    @cached_property
    def fused(self) -> frozenset[str]:
        return fused_taps(self.source, self.case, self.declared)

    @cached_property
    def unpinned(self) -> Unpinned:
        return unpinned(self.source, self.case, self.declared, self.limit)

    @cached_property
    def silent(self) -> frozenset[str]:
        """The taps of which this mode says nothing."""
        return self.unpinned.silent(self.mode)

    def place(self, tap: Tap, rounding: str | None = None) -> Place:
        return Place(self.case.name, self.source.precision, self.mode, tap, rounding)

    def dtype(self, kind: str) -> str:
        """A port may be wider than the precision by design; nothing is wider than float64."""
        precision = self.source.precision
        return precision if precision == "float64" else self.declared.dtypes.get(kind, precision)

    def noise_of(self, name: str) -> str:
        """Which of PyTorch's errors a tap's are compared with."""
        return "forward" if name in self.fused else self.mode


def refusal(by: Comparing, tap: Tap, values: Sequence[np.ndarray]) -> TapResult | None:
    """Why the values of several calls do not fit together; None where they do."""
    if not by.case.cached:
        return None
    place, dtypes = by.place(tap), {value.dtype.name for value in values}
    if len(dtypes) > 1:
        return place.result("dtype", "one dtype in all calls", " and ".join(sorted(dtypes)))
    largest = by.source.largest(by.case.name, tap.name)
    shape = largest.shape if largest else by.source.truth(by.case.name, tap.name).shape
    wrong = along.misshapen(tap, values, by.spans, shape)
    if wrong is not None:
        return place.result("shape", f"{shape} [{', '.join(tap.dims)}] over all calls", wrong)
    return None


def compared(
    by: Comparing, tap: Tap, values: Sequence[np.ndarray], rounding: str | None = None, watch: Watch = unseen
) -> TapResult:
    """A tap's values, one for each call, against the case's golden.

    A cache is compared after every call, up to the slots that are filled; the worst is the result.

    Args:
        rounding: the precision whose rounding it is judged by, where that is not the check's own.
        watch: shown what every comparison is made of.
    """
    refused = refusal(by, tap, values)
    if refused is not None:
        return refused
    case, truth = by.case, by.source.truth(by.case.name, tap.name)
    if not case.cached or tap.kind not in CACHE_KINDS:
        truth = truth if case.cached else along.at_kept(tap, truth, case.shape[1], case.kept)
        return _at_tokens(by, tap, along.take(tap, values, case), truth, rounding, watch)
    results = []
    for value, span in zip(values, by.spans, strict=True):
        filled = slice(span.stop)  # [B, slot, ...]
        results.append(_at_tokens(by, tap, value[:, filled], truth[:, filled], rounding, watch, filled))
    wrong = [call for call, result in enumerate(results) if result.verdict != "match"]
    worst = max(results, key=lambda r: (r.verdict != "match", r.rms_multiple is None, r.rms_multiple or 0.0))
    return replace(worst, calls=case.calls, since_call=wrong[0] if wrong else None)


def _at_tokens(
    by: Comparing,
    tap: Tap,
    actual: np.ndarray,
    truth: np.ndarray,
    rounding: str | None,
    watch: Watch,
    tokens: slice = slice(None),
) -> TapResult:
    """A value against the truth at some of the case's tokens."""
    place, largest = by.place(tap, rounding), by.source.largest(by.case.name, tap.name)
    if largest and actual.shape != largest.shape:
        return by.place(tap).result("shape", f"{largest.shape} [{', '.join(tap.dims)}]", str(actual.shape))
    statistics = largest.statistics(actual, truth) if largest else None
    actual = largest.of(actual) if largest else actual
    noise = by.source.at(rounding).noise(by.case, by.noise_of(tap.name), tap.name)
    noise = noise and noise.at(tokens)
    scope, left_out = _judged_tokens(by, tap)
    if not scope.counted.any():
        return replace(by.place(tap).result("tied"), choice=left_out, calls=scope.calls)
    scope = Scope(scope.counted[:, tokens], scope.positions[tokens], scope.calls)
    if actual.shape == truth.shape:
        watch(Compared(by.case, by.mode, tap, actual, truth, noise, scope, rounding))
    limit, choices = by.limit if rounding is None else by.limit_at(rounding), None
    if tap.kind in PINNED:
        mode = by.noise_of(scores_of(by.source, tap.name))
        choices = choosing(by.source, by.case, tap.name, mode, limit, rounding)
    result = compare(place, actual, truth, noise, limit, by.dtype(tap.kind), scope, statistics, choices)
    result = replace(result, choice=left_out) if left_out else result
    return largest.named(result, scope.positions) if largest else with_expert(by.source, result)


def _judged_tokens(by: Comparing, tap: Tap) -> tuple[Scope, Choices | None]:
    """The tokens at which a tap says something in replay, and how many are left out, if any are."""
    scope = by.source.scope(by.case.name)
    hidden = by.unpinned.tokens.get(tap.name) if by.mode == "replay" else None
    if hidden is None:
        return scope, None
    left_out = Choices(int(scope.counted.sum()), unseen=int(hidden.sum()))
    return replace(scope, counted=scope.counted & ~hidden), left_out
