"""One recorded tap against one tap of the port: structure first, then values. It refuses, it never repairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from harness import metrics
from harness.calibration import Floor
from harness.modes import unit_of
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
        row: of the batch.
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
    row: int = 0


@dataclass(frozen=True)
class LogitStatistics:
    """What the usual criteria say of one case, over the `positions` of all its rows, without padding."""

    mean_kl: float | None
    p99_kl: float | None
    max_kl: float | None
    top1_agreement: float
    flips: tuple[Flip, ...]
    nmse: float | None
    pcc: float | None
    positions: int


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
    golden of `worst` is the port's own prefill (see `harness.modes`). `expected` and `found` are what a tap had to
    be and what it was: where both are there beside figures, it has a wider dtype than it should. `rounding` is
    the precision whose noise and limits it was judged by, where that is not its own.
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

    @property
    def share(self) -> float:
        """How many times its limit it is, at its worst; infinite where that was not computed."""
        return max(self.shares)

    @property
    def shares(self) -> tuple[float, float, float]:
        """How many times its limit it is: the rms, the largest error, and all positions together."""
        return (
            _share(self.rms_multiple, self.rms_limit),
            _share(self.max_multiple, self.max_limit),
            _share(self.overall_multiple, self.overall_limit),
        )


def _share(multiple: float | None, limit: float | None) -> float:
    return float("inf") if multiple is None or not limit else multiple / limit


@dataclass(frozen=True, eq=False)
class Scope:
    """Which tokens a comparison is about.

    Attributes:
        counted: False at padding, which is not compared.
        positions: which of the case's tokens they are.
        calls: how many of them each forward pass got; empty means all in one.
    """

    counted: Bool[np.ndarray, "batch position"]
    positions: Int[np.ndarray, " position"]
    calls: tuple[int, ...] = ()

    @classmethod
    def whole(cls, batch: int, length: int) -> Scope:
        """All tokens, none of them padding."""
        return cls(np.ones((batch, length), bool), np.arange(length))

    def first_call(self, wrong: Bool[np.ndarray, "batch position"]) -> int | None:
        """The first call that got a token that is wrong; None where none is, or where there was one call."""
        tokens = np.flatnonzero((wrong & self.counted).any(axis=0))
        if not self.calls or not len(tokens):
            return None
        return int(np.searchsorted(np.cumsum(self.calls), tokens[0], side="right"))


@dataclass(frozen=True)
class Place:
    """Which comparison this is; `rounding` is the precision that it is judged by, where that is not its own."""

    case: str
    precision: str
    mode: str
    tap: Tap
    rounding: str | None = None

    def result(self, verdict: Verdict, expected: str | None = None, found: str | None = None) -> TapResult:
        """A result without numbers: `missing`, `extra`, `shape`, `dtype`."""
        return TapResult(
            self.case, self.precision, self.mode, self.tap.name, verdict, expected=expected, found=found
        )


def compare(
    place: Place,
    actual: Num[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    noise: Floor | None,
    limit: Limit,
    dtype: str,
    scope: Scope | None = None,
) -> TapResult:
    """Compare a tap of the port with the golden's truth.

    Args:
        place: which comparison this is.
        actual: what the port handed over.
        truth: the golden's value, same shape.
        noise: PyTorch's own error; None where none is recorded (float64).
        limit: what still counts as rounding.
        dtype: the dtype that the port has to use.
        scope: which tokens these are; None means a whole case without padding.

    Returns:
        A result whose verdict is `match`, `diverged`, `shape`, `dtype` or `nonfinite`.
    """
    if actual.shape != truth.shape:
        dims = ", ".join(place.tap.dims)
        return place.result("shape", f"{truth.shape} [{dims}]", str(actual.shape))
    if actual.dtype.name != dtype:
        return place.result("dtype", dtype, actual.dtype.name)

    axis = place.tap.position_axis
    scope = scope or Scope.whole(truth.shape[0], truth.shape[axis])
    error = metrics.errors(actual, truth, axis, scope.counted)
    unit, scales = metrics.UNIT_ROUNDOFF[place.rounding or place.precision], (error.scale_rms, error.scale_max)
    rms, largest, max_floor = multiples(error, noise, scales, unit, unit_of(place.mode))
    allowed, counted = limit.of(noise, scope.counted), scope.counted
    overall = allowed.overall_of(rms)
    beyond = allowed.beyond(rms, largest)
    within = not beyond.any()
    shares = (np.where(counted, share, -1.0) for share in (rms / allowed.rms, largest / allowed.max))
    at, at_max = (np.unravel_index(int(share.argmax()), rms.shape) for share in shares)
    row, several = int(at[0]), len(rms) > 1
    real = scope.counted[row]
    r, note = _position_correlation(scope.positions[real], error.rms[row][real], within)
    above_noise = not within and np.isfinite(rms[row]).all()
    worst = dict(zip(place.tap.dims, error.worst, strict=True))
    worst[place.tap.dims[axis]] = int(scope.positions[error.worst[axis]])
    return TapResult(
        case=place.case,
        precision=place.precision,
        mode=place.mode,
        tap=place.tap.name,
        verdict="nonfinite" if not np.isfinite(error.max_abs) else "match" if within else "diverged",
        rms_multiple=finite(rms[at]),
        max_multiple=finite(largest[at_max]),
        overall_multiple=finite(overall),
        rms_limit=float(allowed.rms[at]),
        max_limit=float(allowed.max[at_max]),
        overall_limit=allowed.overall,
        chance=limit.chance(noise, rms, int(counted.sum())),
        max_abs=finite(error.max_abs),
        mean_abs=finite(error.mean_abs),
        rel_rms=finite(error.relative_rms),
        noise_max=None if noise is None else finite(noise.recorded_max[scope.counted].max()),
        position_r=r,
        position_note=note,
        growth_p=metrics.growth_p_value(rms[row][real]) if above_noise else None,
        worst=Worst(worst, finite(actual[error.worst]), float(truth[error.worst])),
        profile=_three_digits(np.where(real, rms[row], np.nan)),
        limits=_three_digits(np.where(real, allowed.rms[row], np.nan)),
        logits=_logit_statistics(actual, truth, max_floor, scope) if place.tap.kind == "logits" else None,
        calls=scope.calls,
        since_call=scope.first_call(beyond),
        row=row if several else None,
        wrong_rows=tuple(np.flatnonzero(beyond.any(axis=1)).tolist()) if several else (),
        rounding=place.rounding,
    )


def multiples(
    error: metrics.Errors,
    noise: Floor | None,
    scales: tuple[metrics.PerPosition, metrics.PerPosition],
    unit: float,
    runs: int = 1,
) -> tuple[metrics.PerPosition, metrics.PerPosition, metrics.PerPosition]:
    """Noise multiples of rms and max, and the floor of the latter.

    Args:
        scales: rms and largest size of the values themselves.
        unit: unit roundoff.
        runs: how many runs' rounding the error holds.
    """
    zero = np.zeros(error.rms.shape)
    own_rms, own_max = (zero, zero) if noise is None else (noise.rms, noise.max)
    rms_floor = runs * metrics.noise_floor(own_rms, scales[0], unit)
    max_floor = runs * metrics.noise_floor(own_max, scales[1], unit)
    rms, largest = metrics.noise_multiple(error.rms, rms_floor), metrics.noise_multiple(error.max, max_floor)
    return rms, largest, max_floor


def _three_digits(values: Float[np.ndarray, " position"]) -> tuple[float | None, ...]:
    return tuple(finite(float(f"{value:.3g}")) for value in values)


def finite(value: float) -> float | None:
    """The value as a plain float, or None where it is not finite (JSON has no infinity)."""
    return float(value) if np.isfinite(value) else None


def _position_correlation(
    positions: Int[np.ndarray, " position"], profile: Float[np.ndarray, " position"], within_noise: bool
) -> tuple[float | None, str | None]:
    """Pearson's r of the rms error with position, and the reason where it means nothing."""
    r = metrics.pearson(positions.astype(np.float64), profile)
    if len(profile) < MEANINGFUL_POSITIONS:
        return r, f"r means nothing with {len(profile)} position{'s'[: len(profile) > 1]}"
    if within_noise:
        return r, "r means nothing: the error is within the noise"
    return r, None


def _logit_statistics(
    actual: Num[np.ndarray, "batch position vocab"],
    truth: Float[np.ndarray, "batch position vocab"],
    noise: Float[np.ndarray, "batch position"],
    scope: Scope,
) -> LogitStatistics:
    counted = scope.counted
    kl = metrics.kl_divergence(actual[counted], truth[counted])
    golden, chosen = truth.argmax(axis=-1), actual.argmax(axis=-1)
    flips = []
    for row, position in np.argwhere((golden != chosen) & counted):
        logits = truth[row, position]
        margin = float(logits[golden[row, position]] - logits[chosen[row, position]])
        allowed = float(noise[row, position])
        flips.append(
            Flip(
                int(scope.positions[position]),
                int(golden[row, position]),
                int(chosen[row, position]),
                margin,
                allowed,
                tie=margin <= 2 * allowed,
                row=int(row),
            )
        )
    return LogitStatistics(
        mean_kl=finite(kl.mean()),
        p99_kl=finite(np.quantile(kl, 0.99)) if np.isfinite(kl).all() else None,
        max_kl=finite(kl.max()),
        top1_agreement=float((golden == chosen)[counted].mean()),
        flips=tuple(flips),
        nmse=finite(metrics.nmse(actual[counted], truth[counted])),
        pcc=metrics.pcc(actual[counted], truth[counted]),
        positions=int(counted.sum()),
    )
