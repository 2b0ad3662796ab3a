"""A case in several calls, with a cache: what each call sees of the goldens, and its values joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Num

from harness.run.tapping import Goldens, fired_twice, going_on, refuse_tracer
from harness.taps import CACHE_KINDS, Tap, name_of

Values = Num[np.ndarray, "..."]


class Whole(Protocol):
    """The session of the whole case, as its calls see it."""

    replaying: bool

    def tap(self, name: str) -> Tap | None: ...

    def golden(self, name: str) -> np.ndarray | None: ...

    def goldens(self, stage: str) -> Goldens: ...

    def judge_by(self, rounding: Mapping[str, str]) -> None: ...

    def take(self, call: int, name: str, value: jax.Array | np.ndarray) -> None: ...


class CallSession:
    """The tap of one call of a case. Implements `harness.run.tapping.Session`.

    Goldens have one shape in all calls of one length, so that one compilation serves every step: a cache is as
    long as at the end, NaN where it is not filled yet.
    """

    def __init__(self, whole: Whole, call: int, span: slice) -> None:
        self.replaying = whole.replaying
        self._whole, self._call, self._span = whole, call, span
        self._seen: set[str] = set()

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        refuse_tracer(name, value)
        self._take(name, value)
        golden = self._whole.golden(name)
        return going_on(name, None if golden is None else self._part(name, golden), value, self.replaying)

    def goldens(self, stage: str) -> Goldens:
        whole = self._whole.goldens(stage)
        return {kind: self._part(name_of(stage, kind), value) for kind, value in whole.items()}

    def _part(self, name: str, golden: np.ndarray) -> np.ndarray:
        tap = self._whole.tap(name)
        assert tap is not None
        return part(tap, golden, self._span)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        self._whole.judge_by(rounding)

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self._take(name_of(stage, kind), value)

    def _take(self, name: str, value: jax.Array | np.ndarray) -> None:
        if name in self._seen:
            raise fired_twice(name)
        self._seen.add(name)
        self._whole.take(self._call, name, value)


def part(tap: Tap, golden: Values, span: slice) -> Values:
    """What one call sees of a case's golden: its own tokens; a cache up to them, and NaN in its further slots."""
    if tap.kind in CACHE_KINDS:
        filled = golden.copy()
        filled[:, span.stop :] = np.nan
        return filled
    return golden[tuple(span if dim == "position" else slice(None) for dim in tap.dims)]


def misshapen(tap: Tap, values: Sequence[Values], spans: Sequence[slice], shape: Sequence[int]) -> str | None:
    """What is wrong with the shapes of a tap's values, if anything: call by call, cache and keys may be longer."""
    for call, (value, span) in enumerate(zip(values, spans, strict=True)):
        expected = dict(zip(tap.dims, shape, strict=True)) | {"position": span.stop - span.start}
        least = {"slot": span.stop, "key": span.stop}
        wrong = len(value.shape) != len(tap.dims) or any(
            size < least[dim] if dim in least else size != expected[dim]
            for dim, size in zip(tap.dims, value.shape, strict=True)
        )
        if wrong:
            return f"{tuple(value.shape)} in call {call}"
    return None


def joined(tap: Tap, values: Sequence[Values], length: int) -> Values:
    """The values of all calls along the case's tokens.

    Probabilities have the case's keys: what a call gives to a slot that no token fills is counted at its last key,
    where it is an error, since it belongs to nobody.
    """
    if "key" in tap.dims:
        values = [_keys(value, length) for value in values]
    return np.concatenate(list(values), axis=tap.position_axis)


def _keys(probs: Values, length: int) -> Values:
    keys = probs.shape[-1]
    if keys <= length:
        return np.pad(probs, [(0, 0)] * (probs.ndim - 1) + [(0, length - keys)])
    cut = probs[..., :length].copy()
    cut[..., -1] += probs[..., length:].sum(axis=-1, dtype=probs.dtype)
    return cut
