"""The comparison of a case in one mode: what its values are compared with, judged by, and the result of a tap.

Pure functions of what a golden has, where a comparison is made, and a port's values; checks, audits and diagnoses
use the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float, Num

from harness import along, tolerances
from harness.along import Scope, spans_of
from harness.calibration import Floor
from harness.choice import Choosing
from harness.comparison import Place, compare
from harness.golden import CaseEntry
from harness.results import Choices, TapResult
from harness.run.choices import Unpinned, choosing, pins, scores_of, unpinned, with_expert
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.taps import CACHE_KINDS, PINNED, Tap, recorded_inputs
from harness.tolerances import Limit

if TYPE_CHECKING:
    from harness.top import Largest


@dataclass(frozen=True, eq=False)
class Compared:
    """What one comparison is made of: the port's values and the golden's at the same tokens.

    Attributes:
        actual: of the port; a cache, after the call that was compared last.
        noise: PyTorch's own error; None in float64.
        rounding: the precision whose rounding it is judged by, where that is not its own.
        largest: which logits the truth has, where it has not all.
        choosing: of the weights of experts, what other choices are judged by.
        left_out: how many tokens say nothing in replay, if any do.
    """

    case: CaseEntry
    mode: str
    tap: Tap
    actual: Num[np.ndarray, "..."]
    truth: Float[np.ndarray, "..."]
    noise: Floor | None
    scope: Scope
    rounding: str | None = None
    largest: Largest | None = None
    choosing: Choosing | None = None
    left_out: Choices | None = None


Watch = Callable[[Compared], None]


def unseen(_: object) -> None:
    """Nobody looks at the values, or at the results."""


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
    sink: Callable[[TapResult], None] = unseen
    watch: Watch = unseen
    limit_at: Callable[[str], Limit] = tolerances.limit

    def limit_of(self, rounding: str | None) -> Limit:
        """The limits at the precision by whose rounding something is judged; None is the check's own."""
        return self.limit if rounding is None else self.limit_at(rounding)


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


def judged(given: Compared, precision: str, limit: Limit, dtype: str, watch: Watch = unseen) -> TapResult:
    """The result of a comparison at a precision.

    Args:
        watch: shown what it is made of, of logits those that are compared.
    """
    place, scope = Place(given.case.name, precision, given.mode, given.tap, given.rounding), given.scope
    statistics, largest = None, given.largest
    if largest and given.actual.shape != largest.shape:
        return place.result("shape", f"{largest.shape} [{', '.join(place.tap.dims)}]", str(given.actual.shape))
    if given.left_out and not scope.counted.any():
        return replace(place.result("tied"), choice=given.left_out, calls=scope.calls)
    if largest:
        statistics = largest.statistics(given.actual, given.truth)
        given = replace(given, actual=largest.of(given.actual))
    if given.actual.shape == given.truth.shape:
        watch(given)
    judging = given.noise, limit, dtype, scope, statistics, given.choosing
    result = compare(place, given.actual, given.truth, *judging)
    result = replace(result, choice=given.left_out) if given.left_out else result
    return largest.named(result, scope.positions) if largest else result


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
    """One case in one mode (`forward` or `replay`), against its golden."""

    source: GoldenSource
    case: CaseEntry
    mode: str
    judgement: Judgement

    @cached_property
    def wanted(self) -> Mapping[str, Tap]:
        """The taps that the port has to hand over."""
        taps = (self.source.taps[name] for name in self.case.taps)
        return {tap.name: tap for tap in taps if tap.kind not in self.judgement.declared.without}

    @cached_property
    def spans(self) -> Sequence[slice]:
        """The tokens of each call."""
        return spans_of(self.case.calls or (self.case.shape[1],))

    @cached_property
    def pins(self) -> bool:
        """Whether the port's choices are pinned (`harness.run.choices`)."""
        return pins(self.source, self.judgement.declared)

    @cached_property
    def fused(self) -> frozenset[str]:
        return fused_taps(self.source, self.case, self.judgement.declared)

    @cached_property
    def unpinned(self) -> Unpinned:
        return unpinned(self.source, self.case, self.judgement.declared, self.judgement.limit)

    @cached_property
    def silent(self) -> frozenset[str]:
        """The taps of which this mode says nothing."""
        return self.unpinned.silent(self.mode)

    def place(self, tap: Tap) -> Place:
        return Place(self.case.name, self.source.precision, self.mode, tap)

    def dtype(self, kind: str) -> str:
        """A port may be wider than the precision by design; nothing is wider than float64."""
        precision = self.source.precision
        return precision if precision == "float64" else self.judgement.declared.dtypes.get(kind, precision)

    def noise_of(self, name: str) -> str:
        """Which of PyTorch's errors a tap's are compared with."""
        return "forward" if name in self.fused else self.mode


def refusal(by: Comparing, tap: Tap, values: Sequence[np.ndarray]) -> TapResult | None:
    """Why the values of several calls do not fit together; None where they do."""
    if not by.case.cached:
        return None
    place, dtypes = by.place(tap), {dtype.name for dtype in {value.dtype for value in values}}
    if len(dtypes) > 1:
        return place.result("dtype", "one dtype in all calls", " and ".join(sorted(dtypes)))
    largest = by.source.largest(by.case.name, tap.name)
    shape = largest.shape if largest else by.source.truth(by.case.name, tap.name).shape
    wrong = along.misshapen(tap, values, by.spans, shape)
    if wrong is not None:
        return place.result("shape", f"{shape} [{', '.join(tap.dims)}] over all calls", wrong)
    return None


def compared(
    by: Comparing,
    tap: Tap,
    values: Sequence[np.ndarray],
    joined: np.ndarray,
    rounding: str | None = None,
    watch: Watch = unseen,
) -> TapResult:
    """A tap's values against the case's golden.

    A cache is compared after every call, up to the slots that are filled; the worst is the result.

    Args:
        values: one for each call, which fit together (`refusal`).
        joined: what they are together (`harness.along.take`).
        rounding: the precision whose rounding it is judged by, where that is not the check's own.
        watch: shown what every comparison is made of.
    """
    case, truth, limit = by.case, by.source.truth(by.case.name, tap.name), by.judgement.limit_of(rounding)
    judging = by.source.precision, limit, by.dtype(tap.kind), watch
    if not case.cached or tap.kind not in CACHE_KINDS:
        truth = truth if case.cached else along.at_kept(tap, truth, case.shape[1], case.kept)
        return with_expert(by.source, judged(_given(by, tap, joined, truth, rounding), *judging))
    results = []
    for value, span in zip(values, by.spans, strict=True):
        filled = slice(span.stop)  # [B, slot, ...]
        given = _given(by, tap, value[:, filled], truth[:, filled], rounding, filled)
        results.append(judged(given, *judging))
    wrong = [call for call, result in enumerate(results) if result.verdict != "match"]
    worst = max(results, key=lambda r: (r.verdict != "match", r.rms_multiple is None, r.rms_multiple or 0.0))
    return replace(worst, calls=case.calls, since_call=wrong[0] if wrong else None)


def _given(
    by: Comparing,
    tap: Tap,
    actual: np.ndarray,
    truth: np.ndarray,
    rounding: str | None,
    tokens: slice = slice(None),
) -> Compared:
    """A value and its truth, at some of the case's tokens."""
    source, case, left_out, choices = by.source, by.case, None, None
    noise, scope = source.at(rounding).noise(case, by.noise_of(tap.name), tap.name), source.scope(case.name)
    counted, largest = scope.counted, source.largest(case.name, tap.name)
    hidden = by.unpinned.tokens.get(tap.name) if by.mode == "replay" else None
    if hidden is not None:
        left_out, counted = Choices(int(counted.sum()), unseen=int(hidden.sum())), counted & ~hidden
    if tap.kind in PINNED:
        limit, mode = by.judgement.limit_of(rounding), by.noise_of(scores_of(source, tap.name))
        choices = choosing(source, case, tap.name, mode, limit, rounding)
    if hidden is not None or tokens != slice(None):
        scope, noise = Scope(counted[:, tokens], scope.positions[tokens], scope.calls), noise and noise.at(tokens)
    return Compared(case, by.mode, tap, actual, truth, noise, scope, rounding, largest, choices, left_out)
