"""One recorded tap against one tap of the port: structure first, then values. It refuses, it never repairs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from harness import metrics
from harness.along import Scope
from harness.calibration import Floor
from harness.logits import Statistics, of_all
from harness.results import TapResult, Verdict, Worst, finite, unit_of
from harness.taps import ROUTING_KINDS, Tap
from harness.tolerances import Allowed, Limit

if TYPE_CHECKING:
    from harness.choice import Choosing

# Fewer positions than this, and Pearson's r is arithmetic: with 2 it is always +1 or -1.
MEANINGFUL_POSITIONS = 4
EXACT_POWERS = 22  # of ten, in float64
FLOATS = ("bfloat16", "float32", "float64")  # from narrow to wide


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
    statistics: Statistics | None = None,
    choosing: Choosing | None = None,
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
        statistics: of logits; None means that `actual` and `truth` have all of them.
        choosing: of the weights of experts, what other choices are judged by.

    Returns:
        A result whose verdict is `match`, `diverged`, `shape`, `dtype` or `nonfinite`; `tied` where every token
        is a tie. Of a wider dtype the values are judged too, so that no bug hides behind a cast that is missing:
        the verdict is `dtype` where they match, and the one on them where they do not; `expected` and `found` say
        in both cases that the contract is broken. How tokens are shared out may be wider than the model is.
    """
    if actual.shape != truth.shape:
        dims = ", ".join(place.tap.dims)
        return place.result("shape", f"{truth.shape} [{dims}]", str(actual.shape))
    given, scope = actual.dtype.name, scope or Scope.whole(truth.shape[0], truth.shape[place.tap.position_axis])
    wider = _is_wider(given, dtype)
    if given != dtype and not wider:
        return replace(place.result("dtype", dtype, given), held_by=metrics.held_by(actual, place.precision))
    if choosing is None:
        result = _of_values(place, actual, truth, noise, limit, scope, statistics)
    else:  # the choices first, then the values of tokens whose choice is no tie
        from harness.choice import judged

        seen = judged(choosing, actual, truth, scope.counted, scope.positions)
        left = replace(scope, counted=scope.counted & ~seen.tied)
        result = replace(place.result("tied"), calls=scope.calls)
        if left.counted.any():
            result = _of_values(place, actual, truth, noise, limit, left, None, seen.wrong)
        result = replace(result, choice=seen.choices)
    if not wider or place.tap.kind in ROUTING_KINDS:
        return result
    verdict = "dtype" if result.verdict == "match" else result.verdict
    return replace(result, verdict=verdict, expected=dtype, found=given)


def _is_wider(given: str, dtype: str) -> bool:
    return given in FLOATS and dtype in FLOATS and FLOATS.index(given) > FLOATS.index(dtype)


def _of_values(
    place: Place,
    actual: Num[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    noise: Floor | None,
    limit: Limit,
    scope: Scope,
    statistics: Statistics | None,
    wrong: Bool[np.ndarray, "batch position"] | None = None,
) -> TapResult:
    """Compare the values alone: `match`, `diverged` or `nonfinite`.

    Args:
        wrong: tokens that do not match, whatever their values are.
    """
    axis, counted, positions = place.tap.position_axis, scope.counted, scope.positions
    error = metrics.errors(actual, truth, axis, None if scope.all_counted else counted)
    unit, scales = metrics.UNIT_ROUNDOFF[place.rounding or place.precision], (error.scale_rms, error.scale_max)
    rms, largest, max_floor = multiples(error, noise, scales, unit, unit_of(place.mode))
    allowed = limit.of(noise, counted)
    overall = allowed.overall_of(rms)
    beyond = allowed.beyond(rms, largest)
    beyond = beyond if wrong is None else beyond | wrong
    within = not beyond.any()
    at, at_max = (_first_of_largest(shares, scope) for shares in (rms / allowed.rms, largest / allowed.max))
    row, several = at[0], len(rms) > 1
    real = counted[row]
    r, note = _position_correlation(positions[real], error.rms[row][real], within)
    above_noise = not within and np.isfinite(rms[row]).all()
    worst = dict(zip(place.tap.dims, error.worst, strict=True))
    worst[place.tap.dims[axis]] = int(positions[error.worst[axis]])
    limits, noise_max = _shown(allowed, noise, counted.tobytes(), row)
    return TapResult(
        case=place.case,
        precision=place.precision,
        mode=place.mode,
        tap=place.tap.name,
        verdict="nonfinite" if not math.isfinite(error.max_abs) else "match" if within else "diverged",
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
        noise_max=noise_max,
        position_r=r,
        position_note=note,
        growth_p=metrics.growth_p_value(rms[row][real]) if above_noise else None,
        worst=Worst(worst, finite(actual[error.worst]), float(truth[error.worst])),
        profile=_three_digits(np.where(real, rms[row], np.nan)),
        limits=limits,
        logits=(statistics or of_all(actual, truth))(error, max_floor, scope)
        if place.tap.kind == "logits"
        else None,
        calls=scope.calls,
        since_call=None if within else scope.first_call(beyond),
        row=row if several else None,
        wrong_rows=() if within or not several else tuple(np.flatnonzero(beyond.any(axis=1)).tolist()),
        rounding=place.rounding,
        held_by=metrics.held_by(actual, place.precision),
    )


def _first_of_largest(shares: metrics.PerPosition, scope: Scope) -> tuple[int, int]:
    """Row and position of the largest of the shares that count."""
    at = (shares if scope.all_counted else np.where(scope.counted, shares, -1.0)).argmax()
    row, position = divmod(int(at), shares.shape[1])
    return row, position


@functools.lru_cache(maxsize=4096)
def _shown(
    allowed: Allowed, noise: Floor | None, which: bytes, row: int
) -> tuple[tuple[float | None, ...], float | None]:
    """What the results of the same places have in common: the limits of a row, and PyTorch's own largest error.

    Args:
        which: the bytes of `Scope.counted`.
    """
    counted = np.frombuffer(which, bool).reshape(allowed.rms.shape)
    limits = _three_digits(np.where(counted[row], allowed.rms[row], np.nan))
    return limits, None if noise is None else finite(noise.recorded_max[counted].max())


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
    own_rms, own_max = (0.0, 0.0) if noise is None else (noise.rms, noise.max)
    rms_floor = runs * metrics.noise_floor(own_rms, scales[0], unit)
    max_floor = runs * metrics.noise_floor(own_max, scales[1], unit)
    rms, largest = metrics.noise_multiple(error.rms, rms_floor), metrics.noise_multiple(error.max, max_floor)
    return rms, largest, max_floor


def _three_digits(values: Float[np.ndarray, " position"]) -> tuple[float | None, ...]:
    """Each with three significant digits; None where it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        places = 2 - np.floor(np.log10(np.abs(values)))
    powers, up = np.abs(places), places > 0
    usual = powers <= EXACT_POWERS
    all_usual = usual.all()
    scale = 10.0 ** (powers if all_usual else np.where(usual, powers, 0))
    # Products and quotients of whole numbers, rounded once: what the decimal numeral means.
    whole = np.rint(np.where(up, values * scale, values / scale))
    short = np.where(up, whole / scale, whole * scale).tolist()
    if all_usual:
        return tuple(short)
    return tuple(
        rounded if known else finite(float(f"{value:.3g}"))
        for rounded, known, value in zip(short, usual.tolist(), values.tolist(), strict=True)
    )


def _position_correlation(
    positions: Int[np.ndarray, " position"], profile: Float[np.ndarray, " position"], within_noise: bool
) -> tuple[float | None, str | None]:
    """Pearson's r of the rms error with position, and the reason where it means nothing."""
    r = metrics.pearson(np.asarray(positions, np.float64), profile)
    if len(profile) < MEANINGFUL_POSITIONS:
        return r, f"r means nothing with {len(profile)} position{'s'[: len(profile) > 1]}"
    if within_noise:
        return r, "r means nothing: the error is within the noise"
    return r, None
