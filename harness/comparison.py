"""One recorded tap against one tap of the port: structure first, then values. It refuses, it never repairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from harness import metrics
from harness.taps import Tap
from harness.tolerances import Limit

# Fewer positions than this, and Pearson's r is arithmetic: with 2 it is always +1 or -1.
MEANINGFUL_POSITIONS = 4

# What a tap can be called. `diverged` is a raw result that `verdict.judge` has not looked at yet.
Verdict = Literal[
    "match", "diverged", "introduced", "inherited", "missing", "extra", "shape", "dtype", "nonfinite"
]


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
        margin: by how much the golden prefers its own token over the port's, in logits.
        noise: PyTorch's own largest logit error at this position and precision.
        tie: the margin is at most twice that: each of the two logits may move by the noise.
    """

    position: int
    golden: int
    actual: int
    margin: float
    noise: float
    tie: bool


@dataclass(frozen=True)
class LogitStatistics:
    """What the usual criteria say, over the positions of one case."""

    mean_kl: float | None
    p99_kl: float | None
    max_kl: float | None
    top1_agreement: float
    flips: tuple[Flip, ...]
    nmse: float | None
    pcc: float | None


@dataclass(frozen=True)
class TapResult:
    """The comparison of one tap in one case, precision and mode.

    A number that is not finite, or that nothing was there to compute from, is None. `profile` is the rms
    noise multiple per position, three digits, for the batch row that has the worst one. `noise_max` is
    PyTorch's own largest absolute error at this precision.
    """

    case: str
    precision: str
    mode: str
    tap: str
    verdict: Verdict
    rms_multiple: float | None = None
    max_multiple: float | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    rel_rms: float | None = None
    noise_max: float | None = None
    position_r: float | None = None
    position_note: str | None = None
    growth_p: float | None = None
    worst: Worst | None = None
    profile: tuple[float | None, ...] = ()
    logits: LogitStatistics | None = None
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True, eq=False)
class Noise:
    """PyTorch's own error at one tap of one case. Axis 0 is the statistic: rms, max.

    Attributes:
        recorded: per position of this case.
        typical: the median over all positions of all cases of the golden.
    """

    recorded: Float[np.ndarray, "2 batch position"]
    typical: Float[np.ndarray, "2"]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Noise:
        """No noise recorded (float64): half an ulp of the values is all that is allowed for."""
        return cls(np.zeros((2, *shape)), np.zeros(2))


@dataclass(frozen=True)
class Place:
    """Which comparison this is."""

    case: str
    precision: str
    mode: str
    tap: Tap

    def result(self, verdict: Verdict, expected: str | None = None, found: str | None = None) -> TapResult:
        """A result without numbers: `missing`, `extra`, `shape`, `dtype`."""
        return TapResult(
            self.case, self.precision, self.mode, self.tap.name, verdict, expected=expected, found=found
        )


def compare(
    place: Place,
    actual: Num[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    noise: Noise | None,
    limit: Limit,
    dtype: str,
) -> TapResult:
    """Compare a tap of the port with the golden's truth.

    Args:
        place: which comparison this is.
        actual: what the port handed over.
        truth: the golden's value, same shape.
        noise: PyTorch's own error; None where none is recorded (float64).
        limit: the largest noise multiples that still match.
        dtype: the dtype that the port has to use.

    Returns:
        A result whose verdict is `match`, `diverged`, `shape`, `dtype` or `nonfinite`.
    """
    if actual.shape != truth.shape:
        dims = ", ".join(place.tap.dims)
        return place.result("shape", f"{truth.shape} [{dims}]", str(actual.shape))
    if actual.dtype.name != dtype:
        return place.result("dtype", dtype, actual.dtype.name)

    error = metrics.errors(actual, truth, place.tap.position_axis)
    unit = metrics.UNIT_ROUNDOFF[place.precision]
    own = noise or Noise.none(error.rms.shape)
    rms_floor = metrics.noise_floor(own.recorded[0], own.typical[0], error.scale_rms, unit)
    max_floor = metrics.noise_floor(own.recorded[1], own.typical[1], error.scale_max, unit)
    rms = metrics.noise_multiple(error.rms, rms_floor)
    largest = metrics.noise_multiple(error.max, max_floor)
    within = bool(rms.max() <= limit.rms and largest.max() <= limit.max)
    row = int(rms.max(axis=1).argmax())
    r, note = _position_correlation(error.rms[row], within)
    above_noise = not within and np.isfinite(rms[row]).all()
    return TapResult(
        case=place.case,
        precision=place.precision,
        mode=place.mode,
        tap=place.tap.name,
        verdict="nonfinite" if not np.isfinite(error.max_abs) else "match" if within else "diverged",
        rms_multiple=finite(rms.max()),
        max_multiple=finite(largest.max()),
        max_abs=finite(error.max_abs),
        mean_abs=finite(error.mean_abs),
        rel_rms=finite(error.relative_rms),
        noise_max=None if noise is None else finite(noise.recorded[1].max()),
        position_r=r,
        position_note=note,
        growth_p=metrics.growth_p_value(rms[row]) if above_noise else None,
        worst=Worst(
            dict(zip(place.tap.dims, error.worst, strict=True)),
            finite(actual[error.worst]),
            float(truth[error.worst]),
        ),
        profile=tuple(finite(float(f"{value:.3g}")) for value in rms[row]),
        logits=_logit_statistics(actual, truth, max_floor) if place.tap.kind == "logits" else None,
    )


def finite(value: float) -> float | None:
    """The value as a plain float, or None where it is not finite (JSON has no infinity)."""
    return float(value) if np.isfinite(value) else None


def _position_correlation(
    profile: Float[np.ndarray, " position"], within_noise: bool
) -> tuple[float | None, str | None]:
    """Pearson's r of the rms error with position, and the reason where it means nothing."""
    r = metrics.pearson(np.arange(len(profile), dtype=np.float64), profile)
    if len(profile) < MEANINGFUL_POSITIONS:
        return r, f"r means nothing with {len(profile)} position{'s'[: len(profile) > 1]}"
    if within_noise:
        return r, "r means nothing: the error is within the noise"
    return r, None


def _logit_statistics(
    actual: Num[np.ndarray, "batch position vocab"],
    truth: Float[np.ndarray, "batch position vocab"],
    noise: Float[np.ndarray, "batch position"],
) -> LogitStatistics:
    kl = metrics.kl_divergence(actual, truth)
    golden, chosen = truth.argmax(axis=-1), actual.argmax(axis=-1)
    flips = []
    for row, position in np.argwhere(golden != chosen):
        logits = truth[row, position]
        margin = float(logits[golden[row, position]] - logits[chosen[row, position]])
        allowed = float(noise[row, position])
        flips.append(
            Flip(
                int(position),
                int(golden[row, position]),
                int(chosen[row, position]),
                margin,
                allowed,
                tie=margin <= 2 * allowed,
            )
        )
    return LogitStatistics(
        mean_kl=finite(kl.mean()),
        p99_kl=finite(np.quantile(kl, 0.99)) if np.isfinite(kl).all() else None,
        max_kl=finite(kl.max()),
        top1_agreement=float((golden == chosen).mean()),
        flips=tuple(flips),
        nmse=finite(metrics.nmse(actual, truth)),
        pcc=metrics.pcc(actual, truth),
    )
