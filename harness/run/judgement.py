"""What a session judges by, where its results go, and what else looks at the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Num

from harness import tolerances
from harness.calibration import Floor
from harness.golden import CaseEntry
from harness.results import TapResult
from harness.run.port import Declarations
from harness.scope import Scope
from harness.taps import Tap
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
    watch: Callable[[Compared], None] = unseen
    limit_at: Callable[[str], Limit] = tolerances.limit


class Further(Protocol):
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
