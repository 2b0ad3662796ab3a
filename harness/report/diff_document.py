"""The diff of two checks as plain data. As with a check's report its JSON is the diff; people see views of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.difference import Change, Status
from harness.report.choices import ChoiceFigures
from harness.report.document import Acceptance, GoldenReference, LimitEntry
from harness.verdict import Divergence

Counts = dict[Status, int]


@dataclass(frozen=True)
class Side:
    """One of the two checks, over what both of them compared.

    Attributes:
        label: what was asked for: `package.module:Name`, `report.json` or `git:REV`.
        port: the port as its report calls it.
        git: the commit that it was run at, where it was run at one.
        wrong: how many comparisons do not match.
        introduced: the taps that are wrong even on golden inputs, in data-flow order.
        first_divergence: where it starts.
        acceptance: the logits criteria; None where no logits were compared.
    """

    label: str
    port: str
    git: str | None
    environment: dict[str, Any]
    notes: tuple[str, ...]
    not_covered: tuple[str, ...]
    verdict: Literal["match", "diverged"]
    wrong: int
    introduced: tuple[str, ...]
    first_divergence: Divergence | None
    acceptance: Acceptance | None


@dataclass(frozen=True)
class Extreme:
    """The comparison of a side whose rms noise multiple is worst in view of its limit; None is: not finite."""

    tap: str
    case: str
    rms_multiple: float | None
    rms_limit: float | None


@dataclass(frozen=True)
class Largest:
    """The largest rms noise multiples at one precision in one mode, before and after."""

    precision: str
    mode: str
    before: Extreme
    after: Extreme


@dataclass(frozen=True)
class LogitFigures:
    """The forward logits of one side at one precision, the worst of all cases. None is: not finite.

    Attributes:
        flips: positions where the most likely token is another one, ties left out.
        ties: those where it is another one within PyTorch's own noise.
        max_kl_low: what KL is at least, where the golden has the largest logits alone; it is at most `max_kl`.
    """

    max_abs: float | None
    max_kl: float | None
    positions: int
    flips: int
    ties: int
    max_kl_low: float | None = None


@dataclass(frozen=True)
class LogitsEntry:
    """The forward logits at one precision, before and after."""

    precision: str
    before: LogitFigures
    after: LogitFigures


@dataclass(frozen=True)
class ChoicesEntry:
    """The choices of experts at one precision in one mode, before and after."""

    precision: str
    mode: str
    before: ChoiceFigures
    after: ChoiceFigures


@dataclass(frozen=True)
class Diff:
    """What changed from one check to another, against one golden.

    Attributes:
        verdict: `better`, `worse`, `mixed` (some of both) or `same` (no change beyond the noise).
        notes: what a reader has to know: environments that differ, limits crossed within the noise.
        left_out: what only one side was asked, and was therefore not compared.
        limits: in force on both sides, by precision.
        taps: every tap of the golden, in data-flow order, with the taps that feed it.
        counts: comparisons by status; all statuses are there.
        operations: the same by kind of tap (`q_rope`, in whatever layers), in data-flow order.
        cases: the same by case.
        changes: every comparison that is not `unchanged`.
        choices: where tokens go to other experts than in the golden, on either side.
        still_wrong: what is wrong by itself after: introduced there, or not to be compared, whatever its status.
    """

    schema: Literal[1]
    kind: Literal["diff"]
    golden: GoldenReference
    before: Side
    after: Side
    verdict: Literal["better", "same", "worse", "mixed"]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    limits: dict[str, LimitEntry]
    taps: dict[str, tuple[str, ...]]
    counts: Counts
    operations: dict[str, Counts]
    cases: dict[str, Counts]
    largest: tuple[Largest, ...]
    logits: tuple[LogitsEntry, ...]
    changes: tuple[Change, ...]
    still_wrong: tuple[Change, ...]
    choices: tuple[ChoicesEntry, ...] = ()
