"""One recorded tap against one tap of the port: structure first, then values. It refuses, it never repairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from harness import metrics
from harness.calibration import Floor
from harness.modes import unit_of
from harness.narrower import held_by
from harness.results import Flip, LogitStatistics, TapResult, Verdict, Worst, finite
from harness.taps import Tap
from harness.tolerances import Limit
from harness.top import Top, kl_bounds, margin

# Fewer positions than this, and Pearson's r is arithmetic: with 2 it is always +1 or -1.
MEANINGFUL_POSITIONS = 4
FLOATS = ("bfloat16", "float32", "float64")  # from narrow to wide


Statistics = Callable[[metrics.Errors, metrics.PerPosition, "Scope"], LogitStatistics | None]


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
    statistics: Statistics | None = None,
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

    Returns:
        A result whose verdict is `match`, `diverged`, `shape`, `dtype` or `nonfinite`. Of a wider dtype the
        values are judged too, so that no bug hides behind a cast that is missing: the verdict is `dtype` where
        they match, and the one on them where they do not; `expected` and `found` say in both cases that the
        contract is broken.
    """
    if actual.shape != truth.shape:
        dims = ", ".join(place.tap.dims)
        return place.result("shape", f"{truth.shape} [{dims}]", str(actual.shape))
    found = actual.dtype.name
    if found == dtype:
        return _of_values(place, actual, truth, noise, limit, scope, statistics)
    if not _is_wider(found, dtype):
        return replace(place.result("dtype", dtype, found), held_by=held_by(actual, place.precision))
    result = _of_values(place, actual, truth, noise, limit, scope, statistics)
    verdict = "dtype" if result.verdict == "match" else result.verdict
    return replace(result, verdict=verdict, expected=dtype, found=found)


def _is_wider(found: str, dtype: str) -> bool:
    return found in FLOATS and dtype in FLOATS and FLOATS.index(found) > FLOATS.index(dtype)


def _of_values(
    place: Place,
    actual: Num[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    noise: Floor | None,
    limit: Limit,
    scope: Scope | None,
    statistics: Statistics | None,
) -> TapResult:
    """Compare the values alone: `match`, `diverged` or `nonfinite`."""
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
        logits=(statistics or _of_all(actual, truth))(error, max_floor, scope)
        if place.tap.kind == "logits"
        else None,
        calls=scope.calls,
        since_call=scope.first_call(beyond),
        row=row if several else None,
        wrong_rows=tuple(np.flatnonzero(beyond.any(axis=1)).tolist()) if several else (),
        rounding=place.rounding,
        held_by=held_by(actual, place.precision),
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


def _of_all(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position vocab"]
) -> Statistics:
    """What the usual criteria say of all logits."""

    def statistics(error: metrics.Errors, noise: metrics.PerPosition, scope: Scope) -> LogitStatistics:
        every = scope.counted.all()
        rows, expected = (x.reshape(-1, x.shape[-1]) if every else x[scope.counted] for x in (actual, truth))
        predicted = metrics.predictions(rows, expected)

        def flip(n: int) -> tuple[float, bool]:
            golden, chosen = int(predicted.expected[n]), int(predicted.chosen[n])
            return float(expected[n, golden] - expected[n, chosen]), False

        found = _statistics(predicted.kl, predicted.chosen, predicted.expected, flip, noise, scope)
        return replace(found, nmse=finite(error.nmse), pcc=metrics.pcc(rows, expected))

    return statistics


def of_largest(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position rank"], top: Top
) -> Statistics:
    """The same where the golden has the largest logits alone.

    Args:
        actual: all of the port's.
    """

    def statistics(error: metrics.Errors, noise: metrics.PerPosition, scope: Scope) -> LogitStatistics:
        row, position = np.nonzero(scope.counted)
        where = row, position
        rows, expected, ids = actual[where], truth[where], top.ids[where]
        low, high = kl_bounds(rows, expected, top, where)
        chosen = rows.argmax(-1)

        def flip(n: int) -> tuple[float, bool]:
            return margin(expected[n], ids[n], int(ids[n, 0]), int(chosen[n]))

        found = _statistics(high, chosen, ids[:, 0], flip, noise, scope)
        own = np.take_along_axis(rows, ids.astype(np.int64), -1)
        return replace(
            found,
            nmse=finite(error.nmse),
            pcc=metrics.pcc(own, expected),
            top=ids.shape[-1],
            mean_kl_low=finite(low.mean()),
            max_kl_low=finite(low.max()),
        )

    return statistics


def _statistics(
    kl: Float[np.ndarray, " row"],
    chosen: Int[np.ndarray, " row"],
    golden: Int[np.ndarray, " row"],
    flip: Callable[[int], tuple[float, bool]],
    noise: metrics.PerPosition,
    scope: Scope,
) -> LogitStatistics:
    """KL and top-1 over the tokens that are counted, in their order.

    Args:
        flip: the margin of one of them, and whether it is only known to be that much.
    """
    at = np.argwhere(scope.counted)
    flips = []
    for n in map(int, np.flatnonzero(chosen != golden)):
        row, position = map(int, at[n])
        (by, at_least), allowed = flip(n), float(noise[row, position])
        token = int(scope.positions[position])
        tie = by <= 2 * allowed
        flips.append(Flip(token, int(golden[n]), int(chosen[n]), by, allowed, tie, row, at_least))
    return LogitStatistics(
        mean_kl=finite(kl.mean()),
        p99_kl=finite(np.quantile(kl, 0.99)) if np.isfinite(kl).all() else None,
        max_kl=finite(kl.max()),
        top1_agreement=1 - len(flips) / len(kl),
        flips=tuple(flips),
        nmse=None,
        pcc=None,
        positions=len(kl),
    )
