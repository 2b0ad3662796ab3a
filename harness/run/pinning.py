"""The tap of a port that writes on by itself: its choices of experts are pinned, and nothing is compared."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from harness.golden import CaseEntry
from harness.run.calls import CallSession
from harness.run.choices import given, pins
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.run.tapping import Goldens, TapFunction, no_tap
from harness.run.wanted import wanted_taps
from harness.taps import PINNED, Tap


class Pinning:
    """A case whose values nobody takes. Implements `harness.run.calls.Whole`; its goldens are those of forward."""

    replaying = False

    def __init__(self, source: GoldenSource, case: CaseEntry, declared: Declarations) -> None:
        self._source, self._case = source, case
        self._wanted = wanted_taps(source, case, declared)

    def tap(self, name: str) -> Tap | None:
        return self._wanted.get(name)

    def golden(self, name: str) -> np.ndarray | None:
        tap = self._wanted.get(name)
        return self._source.rounded(self._case.name, name) if tap is not None and tap.kind in PINNED else None

    def goldens(self, stage: str) -> Goldens:
        taps = (tap for tap in self._wanted.values() if tap.stage == stage and tap.name != "logits")
        return {tap.kind: given(self._source, self._case.name, tap, False, True) for tap in taps}

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        """Nothing is judged."""

    def take(self, call: int, name: str, value: jax.Array | np.ndarray) -> None:
        """Nothing is compared."""


def pinned_call(source: GoldenSource, case: CaseEntry, declared: Declarations, span: slice) -> TapFunction:
    """The tap of one call, of the tokens of a case that it is given; none where nothing is pinned."""
    if not pins(source, declared):
        return no_tap
    return CallSession(Pinning(source, case, declared), 0, span)
