"""The tap of a port that writes on by itself: its choices of experts are pinned, and nothing is compared."""

from __future__ import annotations

import jax
import numpy as np

from harness.golden import CaseEntry
from harness.run.choices import pins
from harness.run.comparing import Judgement
from harness.run.port import Declarations
from harness.run.session import CallSession, CaseSession
from harness.run.source import GoldenSource
from harness.run.tapping import TapFunction, no_tap
from harness.tolerances import limit


class Pinning(CaseSession):
    """A case whose values nobody takes; its goldens are those of forward."""

    def take(self, name: str, value: jax.Array | np.ndarray, call: int = 0) -> None:
        """Nothing is compared."""


def pinned_call(source: GoldenSource, case: CaseEntry, declared: Declarations, span: slice) -> TapFunction:
    """The tap of one call, of the tokens of a case that it is given; none where nothing is pinned."""
    if not pins(source, declared):
        return no_tap
    judgement = Judgement(limit(source.precision), declared, lambda result: None)
    return CallSession(Pinning(source, case, "forward", judgement), 0, span)
