"""From two checks to what changed: fixed, improved, unchanged, worse, broken, comparison by comparison.

Both sides are judged on noise multiples, and a change within the noise is no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.comparison import Verdict

# `lost` was compared before and is not any more; `gained` is compared only now: the port covers other taps.
Status = Literal["fixed", "improved", "unchanged", "worse", "broken", "lost", "gained"]
STATUSES: tuple[Status, ...] = ("fixed", "improved", "unchanged", "worse", "broken", "lost", "gained")
BETTER: tuple[Status, ...] = ("fixed", "improved", "gained")
WORSE: tuple[Status, ...] = ("broken", "worse", "lost")


@dataclass(frozen=True)
class Outcome:
    """What one side was at one tap. A number that is not finite, or was never computed, is None."""

    verdict: Verdict
    rms_multiple: float | None
    max_multiple: float | None
    max_abs: float | None


@dataclass(frozen=True)
class Change:
    """One comparison on both sides; None where that side did not make it."""

    case: str
    precision: str
    mode: str
    tap: str
    status: Status
    before: Outcome | None
    after: Outcome | None
