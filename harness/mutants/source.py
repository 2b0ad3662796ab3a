"""Golden values of one stage, each read and verified once for all mutants."""

from __future__ import annotations

import functools

from harness.run.session import GoldenSource
from harness.store import Golden


class StageSource(GoldenSource):
    """A source that keeps whatever was read, until it is told to forget: a stage's taps, not the latest few."""

    def __init__(self, golden: Golden, precision: str) -> None:
        super().__init__(golden, precision)
        self.truth = functools.lru_cache(None)(golden.tap)
        self.rounded = functools.lru_cache(None)(self._rounded)

    def forget(self) -> None:
        """Release all values."""
        self.truth.cache_clear()
        self.rounded.cache_clear()
