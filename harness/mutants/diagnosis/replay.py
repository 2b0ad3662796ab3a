"""The port at one stage of one case, and the sorts of calls in which it may be right or wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool

from harness.along import spans_of
from harness.golden import CaseEntry
from harness.mutants.bench import EMBED, HEAD
from harness.mutants.diagnosis.observation import Observation
from harness.taps import CACHE_KINDS, Tap

FAULTY = ("introduced", "nonfinite")  # verdicts of what is wrong on golden inputs


def stage_of(tap: Tap) -> str:
    """The stage of the decoder that computes a tap: `embed`, `layers.3` or `head`."""
    return tap.stage or (EMBED if tap.kind == "embed" else HEAD)


def sort_of(case: CaseEntry, call: int = 0) -> str:
    """What sort of call this is, as a port may have code of its own for it."""
    rows = "a batch's " if case.shape[0] > 1 else ""
    if not case.cached:
        return f"{rows}prompts"
    if call == 0:
        return f"{rows}prefill"
    return f"{rows}chunks" if case.calls[call] > 1 else f"{rows}steps"


@dataclass(frozen=True, eq=False)
class StageReplay:
    """The port at one stage of one case: all the taps that it exposes there, in data-flow order.

    Attributes:
        only: the one call that it is about; None where it is about all of them.
        before: what the port's caches hold before that call, by kind.
    """

    case: CaseEntry
    stage: str
    taps: Mapping[str, Observation]
    only: int | None = None
    before: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def faulty(self) -> tuple[str, ...]:
        """The kinds that are wrong on golden inputs."""
        return tuple(kind for kind, seen in self.taps.items() if seen.faulty)

    @property
    def calls(self) -> tuple[int, ...]:
        """The calls that it is about."""
        return tuple(range(len(self.case.calls) or 1)) if self.only is None else (self.only,)

    def segment(self, tap: Tap, call: int) -> slice:
        """Where a call's tokens lie along the tap's positions: a cache is there once after every call."""
        if not self.case.cached or self.only is not None:
            return slice(None)
        spans = spans_of(self.case.calls)
        if tap.kind not in CACHE_KINDS:
            return spans[call]
        start = sum(span.stop for span in spans[:call])
        return slice(start, start + spans[call].stop)

    def among(self, kind: str, sorts: Collection[str]) -> Bool[np.ndarray, "batch position"]:
        """The tokens of a tap that come in calls of these sorts."""
        seen = self.taps[kind]
        where = np.zeros(seen.from_golden.beyond.shape, bool)
        for call in self.calls:
            where[:, self.segment(seen.tap, call)] |= sort_of(self.case, call) in sorts
        return where

    def sorts(self, kind: str, where: Bool[np.ndarray, "batch position"]) -> frozenset[str]:
        """The sorts of calls in which something holds at some token of a tap."""
        tap = self.taps[kind].tap
        return frozenset(
            sort_of(self.case, call) for call in self.calls if where[:, self.segment(tap, call)].any()
        )

    def call(self, kind: str) -> StageReplay:
        """The first call in which a kind is wrong, by itself: in replay no call depends on what came before it."""
        tap, wrong = self.taps[kind].tap, self.taps[kind].from_golden.beyond
        first = next(call for call in self.calls if wrong[:, self.segment(tap, call)].any())
        taps = {name: seen.part(self.segment(seen.tap, first)) for name, seen in self.taps.items()}
        caches = {name: seen for name, seen in self.taps.items() if name in CACHE_KINDS and first > 0}
        before = {name: seen.part(self.segment(seen.tap, first - 1)).actual for name, seen in caches.items()}
        return replace(self, taps=taps, only=first, before=before)
