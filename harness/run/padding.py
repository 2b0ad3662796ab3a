"""Few lengths instead of many: an input is padded on the right, so that prompts share a compilation.

A causal decoder's valid positions do not see what is to the right of them, and the mask is False there; taps are
cut back to the real length before anything is compared. The built-in decoder does this, and adapted ports that
declare it (`pads`), and only in a check: any other port is run on exactly the shapes that the golden has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from harness import along
from harness.run.port import Call
from harness.run.tapping import Around, Goldens, Session, whole
from harness.taps import DIMS, PINNED

SHORT = (1, 8, 64)


def padded_length(length: int) -> int:
    """1, 8, 64, then powers of two. 1 stays 1: a softmax over one key is a case of its own."""
    for size in SHORT:
        if length <= size:
            return size
    return 1 << (length - 1).bit_length()


def pad(call: Call, target: int | None = None) -> Call:
    """The call at a padded length, where it is part of a check; its session goes on seeing the real one.

    Args:
        target: the length; None is `padded_length`.
    """
    length = call.input_ids.shape[1]
    target = padded_length(length) if target is None else target
    if target == length or not isinstance(call.tap, Session):
        return call

    def widened(values: jax.Array) -> np.ndarray:
        return np.pad(np.asarray(values), ((0, 0), (0, target - length)))

    return replace(
        call,
        input_ids=widened(call.input_ids),
        positions=widened(call.positions),
        mask=widened(call.mask),
        tap=PaddedSession(call.tap, length, target),
    )


class PaddedSession(Around):
    """A session seen from padded arrays: goldens are widened on the way in, values cut on the way out."""

    def __init__(self, session: Session, length: int, target: int) -> None:
        super().__init__(session)
        self._length, self._target = length, target

    def goldens(self, stage: str) -> Goldens:
        return {kind: self._widened(kind, value) for kind, value in self._session.goldens(stage).items()}

    def _widened(self, kind: str, value: np.ndarray) -> np.ndarray:
        more = along.widths(DIMS[kind], self._target - self._length)
        if kind in PINNED:
            return np.pad(value, more, constant_values=np.nan)
        if self.replaying:
            return np.pad(value, more)
        wide = [size + added for size, (_, added) in zip(value.shape, more, strict=True)]
        return np.broadcast_to(np.zeros((), value.dtype), wide)

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        real = {kind: along.cut(DIMS.get(kind, ()), whole(v), self._length) for kind, v in recorded.items()}
        self._session.absorb(stage, real)
