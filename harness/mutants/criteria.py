"""What the usual criteria say of logits and of tokens, so that an audit can set them beside its own verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.logits import Continuation
from harness.report.audit_document import GREEDY
from harness.report.criteria import MAX_ABS, MEAN_ABS
from harness.results import TapResult

CLOSE = 1e-3


@dataclass(frozen=True)
class LogitFigures:
    """Of the tokens of one case. `pcc` is None where one side is constant."""

    max_abs: float
    mean_abs: float
    max_kl: float
    pcc: float | None
    nmse: float
    same_top1: bool


CRITERIA: Mapping[str, Callable[[LogitFigures], bool]] = {
    "max abs 1e-4, mean 1e-5": lambda figures: figures.max_abs < MAX_ABS and figures.mean_abs < MEAN_ABS,
    "max KL 0.1": lambda figures: figures.max_kl < 0.1,
    "max KL 0.02": lambda figures: figures.max_kl < 0.02,
    "PCC 0.99": lambda figures: figures.pcc is None or figures.pcc > 0.99,
    "NMSE 1e-2": lambda figures: figures.nmse < 1e-2,
    "top-1 equal": lambda figures: figures.same_top1,
    "allclose, atol 1e-3": lambda figures: figures.max_abs <= CLOSE,
}


def figures_of(result: TapResult) -> LogitFigures | None:
    """The figures that the criteria look at, of a comparison of logits; None where they could not be compared.

    A value that is not finite is an infinite error.

    Where the golden has the largest alone, they are of these, and KL is what it is at least: no criterion rejects
    a port for what is not known.
    """
    logits = result.logits
    if logits is None or result.verdict in ("shape", "dtype"):
        return None

    def or_infinite(value: float | None) -> float:
        return float("inf") if value is None else value

    return LogitFigures(
        max_abs=or_infinite(result.max_abs),
        mean_abs=or_infinite(result.mean_abs),
        max_kl=or_infinite(logits.max_kl if logits.top is None else logits.max_kl_low),
        pcc=logits.pcc if result.max_abs is not None else 0.0,
        nmse=or_infinite(logits.nmse),
        same_top1=logits.top1_agreement == 1.0,
    )


def says_no(of_cases: Sequence[LogitFigures], written: Sequence[Continuation]) -> tuple[str, ...]:
    """The criteria that reject the port: those that any case fails. Another token that is a tie fails nothing."""
    of_logits = tuple(name for name, passes in CRITERIA.items() if not all(passes(f) for f in of_cases))
    return (*of_logits, GREEDY) if any(c.verdict == "diverged" for c in written) else of_logits
