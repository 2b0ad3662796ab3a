"""The golden as a check at one precision reads it: truth, truth rounded, noise, and which tokens count."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num

from harness.comparison import Noise, Scope
from harness.golden import CaseEntry
from harness.run.precision import round_to
from harness.run.recent import Recent
from harness.store import Golden
from harness.taps import FULL_KINDS, Tap

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
        self._at = functools.cache(lambda other: GoldenSource(golden, other, keep))

    def at(self, precision: str | None) -> GoldenSource:
        """The same golden at another precision, for its noise; None is this one."""
        return self if precision in (None, self.precision) else self._at(precision)

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
