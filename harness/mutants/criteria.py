"""What the usual criteria say of logits, so that an audit can set them beside the goldens' own verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from harness import metrics
from harness.report.acceptance import MAX_ABS, MEAN_ABS

CLOSE = 1e-3


@dataclass(frozen=True)
class LogitFigures:
    """Of one case. `pcc` is None where one side is constant; `close` is |a - e| <= 1e-3 + 1e-3 |e| throughout."""

    max_abs: float
    mean_abs: float
    max_kl: float
    pcc: float | None
    nmse: float
    same_top1: bool
    close: bool


CRITERIA: Mapping[str, Callable[[LogitFigures], bool]] = {
    "max abs 1e-4, mean 1e-5": lambda figures: figures.max_abs < MAX_ABS and figures.mean_abs < MEAN_ABS,
    "max KL 0.1": lambda figures: figures.max_kl < 0.1,
    "max KL 0.02": lambda figures: figures.max_kl < 0.02,
    "PCC 0.99": lambda figures: figures.pcc is None or figures.pcc > 0.99,
    "NMSE 1e-2": lambda figures: figures.nmse < 1e-2,
    "top-1 equal": lambda figures: figures.same_top1,
    "allclose 1e-3": lambda figures: figures.close,
}


def figures(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position vocab"]
) -> LogitFigures:
    """The figures that the criteria look at; a value that is not finite is an infinite error."""
    with np.errstate(invalid="ignore"):
        error = np.abs(np.asarray(actual, np.float64) - truth)
    error[~np.isfinite(error)] = np.inf
    return LogitFigures(
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        max_kl=float(metrics.kl_divergence(actual, truth).max()),
        pcc=metrics.pcc(actual, truth) if np.isfinite(error).all() else 0.0,
        nmse=metrics.nmse(actual, truth),
        same_top1=bool((actual.argmax(axis=-1) == truth.argmax(axis=-1)).all()),
        close=bool((error <= CLOSE + CLOSE * np.abs(truth)).all()),
    )


def says_no(of_cases: Sequence[LogitFigures]) -> tuple[str, ...]:
    """The criteria that reject the port: those that any case fails."""
    return tuple(name for name, passes in CRITERIA.items() if not all(passes(f) for f in of_cases))
