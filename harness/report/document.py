"""The report as plain data. Its JSON is the report; everything that a person sees is a view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from harness.logits import Continuation
from harness.results import TapResult
from harness.tolerances import BUDGET, Limit
from harness.verdict import Divergence, Narrower


@dataclass(frozen=True)
class GoldenReference:
    """Which golden was checked against.

    Attributes:
        id: the sha256 of its manifest.
        path: as it was given.
        model: what was recorded.
        provenance: how: libraries, hardware, precision settings, command.
    """

    id: str
    path: str
    model: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Criteria:
    """Thresholds on the logits, each to stay below; None is not asked.

    Attributes:
        max_abs: of the largest error.
        mean_abs: of the mean error, the largest of all cases.
        position_r: of the size of Pearson's r of the error with position.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    position_r: float | None = None


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, rename={"passed": "pass"}):
    """The logits as a team's own criteria read them; they decide no verdict.

    Attributes:
        precision: the precision that was judged: float32 where it was checked.
        position_correlation: Pearson's r of the error with position, the largest in size over the cases
            where it means something; None where it means nothing in any of them.
        remark: what the numbers do not say by themselves.
        generation: how far the port writes what PyTorch writes; None where it was not let to.
        criteria: those that were asked for. Without them it was judged by those of the team that this project
            began with, its acceptance of phase 3: a largest error below 1e-4, a mean error below 1e-5, and a
            correlation with position below 0.1.
    """

    precision: str
    max_abs: float | None
    mean_abs: float | None
    position_correlation: float | None
    passed: bool
    remark: str | None = None
    generation: str | None = None
    criteria: Criteria | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class LimitEntry:
    """What the limits at one precision follow from. Every result has its own, of its place.

    Attributes:
        allowance: how many times PyTorch's own error a correct port's may be.
        rms, max: factors on the limits; 1 unless asked for.
        why: the measurements that it rests on.
        weakest_bug: the rms multiple of the weakest planted bug.
        budget: the chance of a correct port to be beyond a limit, in one comparison; None where no noise is
            recorded.
        single: the allowance of a token that is a call of its own, where that is another one.
    """

    allowance: float
    rms: float
    max: float
    why: str
    weakest_bug: float
    budget: float | None = BUDGET
    single: float | None = None

    @classmethod
    def of(cls, limit: Limit) -> LimitEntry:
        budget = None if limit.half_ulps else BUDGET
        return cls(limit.allowance, limit.rms, limit.max, limit.why, limit.weakest_bug, budget, limit.single)


@dataclass(frozen=True)
class Report:
    """The outcome of one check.

    Attributes:
        notes: what a reader has to know about how the port was run, such as a waived precision setting.
        taps: every tap of the golden, in data-flow order, with the taps that feed it.
        not_covered: what this check says nothing about, and why.
        narrower: what the whole model computes in, where that is narrower than what it was asked for.
        looks_like: the known bug that the first wrong operation looks like, or the command that says it; where the
            diagnosis failed, why.
    """

    schema: Literal[1]
    kind: Literal["check"]
    golden: GoldenReference
    port: str
    environment: dict[str, Any]
    notes: tuple[str, ...]
    verdict: Literal["match", "diverged"]
    introduced: tuple[str, ...]
    first_divergence: Divergence | None
    acceptance: Acceptance | None
    limits: dict[str, LimitEntry]
    taps: dict[str, tuple[str, ...]]
    not_covered: tuple[str, ...]
    results: tuple[TapResult, ...]
    generations: tuple[Continuation, ...] = ()
    looks_like: str | None = None
    narrower: tuple[Narrower, ...] = ()


def encode(document: object) -> bytes:
    """A document (a check, a diff, an audit, a diagnosis) as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
