"""What a comparison found: plain data, which reports are made of. And the modes of a check: what the port runs on,
and what its values are compared with.

    forward   its own activations, against the golden
    replay    golden inputs at every tap, against the golden
    prefill   its own activations, through a KV cache, against its own single call on the same tokens without one
    alone     its own activations, in a batch, each row against the golden of the prompt with the same token ids

`prefill` and `alone` ask whether two ways of running the same tokens agree: they say which way is to blame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

MODES = ("forward", "replay", "prefill", "alone")
AGREEMENT_MODES = ("prefill", "alone")

# How many runs' rounding a comparison holds: the size of its unit, in PyTorch's own errors. Two runs of one port
# that are each within the limit of the truth are at most two limits apart, by the triangle inequality (for the rms
# as for the largest error): `prefill` never fails a correct port. Twice the unit says the same as twice the limit,
# and leaves one limit for all modes, in tables, ladders, heat maps and diffs.
RUNS = {"prefill": 2}

# What a tap can be called. `diverged` is a raw result that `verdict.judge` has not looked at yet.
# `tied`: every token goes to other experts, within the noise: there is nothing to compare, and nothing is wrong.
Verdict = Literal[
    "match", "diverged", "introduced", "inherited", "missing", "extra", "shape", "dtype", "nonfinite", "tied"
]


def is_wrong(verdict: Verdict) -> bool:
    """Whether a verdict holds something against the port."""
    return verdict not in ("match", "tied")


def unit_of(mode: str) -> int:
    """The size of the unit in which a mode counts errors, in PyTorch's own errors."""
    return RUNS.get(mode, 1)


@dataclass(frozen=True)
class Worst:
    """The element with the largest absolute error: its index by dimension, and both values."""

    index: dict[str, int]
    actual: float | None
    golden: float


@dataclass(frozen=True)
class Flip:
    """A position where the most likely token is another one than in the golden.

    Attributes:
        row: of the batch.
        margin: by how much the golden prefers its own token over the port's, in logits.
        noise: PyTorch's own largest logit error at this position and precision.
        tie: the margin is at most twice that: each of the two logits may move by the noise.
        at_least: the port's token is not among those of which the golden has logits: the margin is that much or
            more. Where it could be a tie it is called one.
    """

    position: int
    golden: int
    actual: int
    margin: float
    noise: float
    tie: bool
    row: int = 0
    at_least: bool = False


@dataclass(frozen=True)
class Choice:
    """A token that goes to other experts than in the golden.

    Attributes:
        golden, actual: the experts that it goes to.
        gap: how far the golden's scores have to move for that, one up and one down; None where no move does it.
        allowed: how far those of a correct port may.
    """

    row: int
    position: int
    golden: tuple[int, ...]
    actual: tuple[int, ...]
    gap: float | None
    allowed: float


@dataclass(frozen=True)
class Drop:
    """The tokens of a row, `count` of them, that an expert lacks: they go to fewer experts than they should."""

    expert: int
    row: int
    count: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Choices:
    """The experts that tokens go to, beside the golden's.

    Attributes:
        tokens: how many were compared.
        ties: those that go to others, as the noise of the scores explains. Their weights are not compared.
        wrong: those that go to others, beyond the noise.
        dropped: those that go to fewer experts than the model chooses.
        tie: the widest tie.
        worst: the widest of what is wrong.
        drops: which expert lacks which tokens; the first of them.
        unseen: tokens that were not compared, since the port does not show its choice and it may be a tie.
    """

    tokens: int
    ties: int = 0
    wrong: int = 0
    dropped: int = 0
    tie: Choice | None = None
    worst: Choice | None = None
    drops: tuple[Drop, ...] = ()
    unseen: int = 0

    @property
    def others(self) -> int:
        """How many go to other experts than in the golden."""
        return self.ties + self.wrong + self.dropped


@dataclass(frozen=True)
class LogitStatistics:
    """What the usual criteria say of one case, over the `positions` of all its rows, without padding.

    Attributes:
        top: of how many logits at each position, the golden's largest; None where it has all of them. KL is known
            within bounds then: `mean_kl`, `p99_kl` and `max_kl` are what it is at most.
        mean_kl_low, max_kl_low: what it is at least, in that case.
    """

    mean_kl: float | None
    p99_kl: float | None
    max_kl: float | None
    top1_agreement: float
    flips: tuple[Flip, ...]
    nmse: float | None
    pcc: float | None
    positions: int
    top: int | None = None
    mean_kl_low: float | None = None
    max_kl_low: float | None = None


@dataclass(frozen=True)
class TapResult:
    """The comparison of one tap in one case, precision and mode.

    A number that is not finite, or that nothing was there to compute from, is None. The multiples are those of the
    position that is worst in view of its limit, and `rms_limit` and `max_limit` are the limits there;
    `overall_multiple` is the root of the mean square over all positions. `chance` is that of a correct port to
    have such an rms error at any position. `profile` is the rms noise multiple per position, three digits, for the
    batch row that has the worst one, and `limits` the limit there; None at padding, and at the kept positions only
    where a case keeps some. `noise_max` is PyTorch's own largest absolute error at this precision. `calls` says
    how many tokens each forward pass got, where there were several, and `since_call` is the first of them (from 0)
    in which the tap is beyond the limit. `row` is the batch row that has the worst rms multiple in view of its
    limit, where there are several, and `wrong_rows` are all that are beyond the limit. `against` says, row by row,
    with which prompt's golden a row was compared, in mode `alone`: None where with none. In mode `prefill` the
    golden of `worst` is the port's own prefill (see `MODES`). `expected` and `found` are what a tap had to
    be and what it was: where both are there beside figures, it has a wider dtype than it should. `rounding` is
    the precision whose noise and limits it was judged by, where that is not its own. `bound` is the largest error
    that the rounding of this operation can have at `worst`, on golden inputs; it is worked out for what a report
    shows of a finding. `held_by` is the narrowest dtype that holds every value of the port exactly, where it is
    narrower than the precision (`metrics.held_by`). `choice` is there for the experts that tokens go to.
    """

    case: str
    precision: str
    mode: str
    tap: str
    verdict: Verdict
    rms_multiple: float | None = None
    max_multiple: float | None = None
    overall_multiple: float | None = None
    rms_limit: float | None = None
    max_limit: float | None = None
    overall_limit: float | None = None
    chance: float | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    rel_rms: float | None = None
    noise_max: float | None = None
    position_r: float | None = None
    position_note: str | None = None
    growth_p: float | None = None
    worst: Worst | None = None
    profile: tuple[float | None, ...] = ()
    limits: tuple[float | None, ...] = ()
    logits: LogitStatistics | None = None
    expected: str | None = None
    found: str | None = None
    calls: tuple[int, ...] = ()
    since_call: int | None = None
    row: int | None = None
    wrong_rows: tuple[int, ...] = ()
    against: tuple[str | None, ...] = ()
    rounding: str | None = None
    bound: float | None = None
    held_by: str | None = None
    choice: Choices | None = None

    @property
    def beyond_rounding(self) -> float | None:
        """How many times the largest possible rounding the error at `worst` is; above 1 it is none."""
        if self.bound is None or self.worst is None or self.worst.actual is None:
            return None
        return abs(self.worst.actual - self.worst.golden) / self.bound

    @property
    def share(self) -> float:
        """How many times its limit it is, at its worst; infinite where that was not computed, 0 of a tie."""
        return max(self.shares)

    @cached_property
    def shares(self) -> tuple[float, float, float]:
        """How many times its limit it is: the rms, the largest error, and all positions together."""
        if self.verdict == "tied":
            return 0.0, 0.0, 0.0
        return (
            _share(self.rms_multiple, self.rms_limit),
            _share(self.max_multiple, self.max_limit),
            _share(self.overall_multiple, self.overall_limit),
        )


def _share(multiple: float | None, limit: float | None) -> float:
    return float("inf") if multiple is None or not limit else multiple / limit


def finite(value: float) -> float | None:
    """The value as a plain float, or None where it is not finite (JSON has no infinity)."""
    return float(value) if math.isfinite(value) else None
