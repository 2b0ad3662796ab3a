"""Which tokens a comparison is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, eq=False)
class Scope:
    """Which tokens a comparison is about.

    Attributes:
        counted: False at padding, which is not compared.
        positions: which of the case's tokens they are.
        calls: how many of them each forward pass got; empty means all in one.
    """

    counted: Bool[np.ndarray, "batch position"]
    positions: Int[np.ndarray, " position"]
    calls: tuple[int, ...] = ()

    @classmethod
    def whole(cls, batch: int, length: int) -> Scope:
        """All tokens, none of them padding."""
        return cls(np.ones((batch, length), bool), np.arange(length))

    def first_call(self, wrong: Bool[np.ndarray, "batch position"]) -> int | None:
        """The first call that got a token that is wrong; None where none is, or where there was one call."""
        tokens = np.flatnonzero((wrong & self.counted).any(axis=0))
        if not self.calls or not len(tokens):
            return None
        return int(np.searchsorted(np.cumsum(self.calls), tokens[0], side="right"))
