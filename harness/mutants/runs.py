"""What is seen of a mutant, or of the right decoder, as it is taken stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Array

from harness.golden import CaseEntry
from harness.logits import Continuation
from harness.mutants.criteria import LogitFigures
from harness.mutants.mutant import Mutant
from harness.results import TapResult, Verdict
from harness.run.decoder import Decoder

INFINITE = float("inf")


@dataclass(frozen=True)
class Deviation:
    """A comparison whose value is not, bit for bit, the right decoder's.

    Attributes:
        complete: whether the case recorded every operation.
        margin: the noise multiple divided by its limit, rms or max, whichever is larger; above 1 it is caught.
            Infinite where nothing could be compared, or the value is not finite.
        rms: the rms noise multiple, likewise.
    """

    case: str
    complete: bool
    mode: str
    tap: str
    verdict: Verdict
    margin: float
    rms: float


def deviation(result: TapResult, entry: CaseEntry) -> Deviation:
    """What there is of a comparison."""
    rms = INFINITE if result.rms_multiple is None else result.rms_multiple
    return Deviation(entry.name, entry.complete, result.mode, result.tap, result.verdict, result.share, rms)


@dataclass(eq=False)
class MutantRun:
    """A mutant, or the right decoder, and what was seen of it so far.

    Attributes:
        decoders: by batch; they differ only where masks are computed at exact lengths.
        exact: whether they are: then it is compared with a right decoder of which they are too.
        hidden: by batch and call, the residual stream of the forward pass.
        residual: the last tap of the residual stream that it computed.
        deviations: of the right decoder every comparison.
        logits: by case, the figures of the forward pass.
        generations: what it wrote by itself.
        refusal: why it could not be run to the end.
    """

    mutant: Mutant
    decoders: Sequence[Decoder] = ()
    exact: bool = False
    hidden: list[list[Array]] = field(default_factory=list)
    residual: str = "embed"
    deviations: list[Deviation] = field(default_factory=list)
    logits: dict[str, LogitFigures] = field(default_factory=dict)
    generations: list[Continuation] = field(default_factory=list)
    refusal: str | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """What was seen.

    Attributes:
        right: the right decoder, of which every comparison was seen.
        mutants: of these only what differs from it was.
        forced: how many comparisons the forced failure failed.
    """

    right: MutantRun
    mutants: Sequence[MutantRun]
    forced: int
