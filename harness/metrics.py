"""Small pure functions (actual, expected) -> number. float64 inside; a NaN on one side is infinite, never NaN.

Arrays come with a position axis; what is "per position" has shape [batch, position].
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

Values = Num[np.ndarray, "..."]
PerPosition = Float[np.ndarray, "batch position"]

# Unit roundoff: half the distance from 1 to the next number, by precision.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}


@dataclass(frozen=True, eq=False)
class Errors:
    """Everything that a verdict needs of `actual - expected`, from one pass over the arrays.

    Attributes:
        rms, max: of the error, per position.
        scale_rms, scale_max: of the expected values, per position.
        worst: index of the largest absolute error in the array as it was given.
    """

    rms: PerPosition
    max: PerPosition
    scale_rms: PerPosition
    scale_max: PerPosition
    max_abs: float
    mean_abs: float
    relative_rms: float
    worst: tuple[int, ...]


def errors(
    actual: Values,
    expected: Values,
    position_axis: int,
    counted: Bool[np.ndarray, "batch position"] | None = None,
) -> Errors:
    """Compare two arrays of one shape, per position and as a whole.

    Args:
        actual: any float dtype; NaN and infinity count as an infinite error.
        expected: finite, same shape; axis 0 is the batch.
        position_axis: the axis that counts positions.
        counted: False at padding: whatever is there, it is no error. None means that all positions count.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(np.asarray(actual, np.float64) - expected)
    difference[~np.isfinite(difference)] = np.inf
    share = 1.0
    if counted is not None:
        shape = [size if axis in (0, position_axis) else 1 for axis, size in enumerate(expected.shape)]
        where, share = counted.reshape(shape), float(counted.mean())
        difference, expected = np.where(where, difference, 0.0), np.where(where, expected, 0.0)
    rms, largest = per_position(difference, position_axis)
    scale_rms, scale_max = per_position(expected, position_axis)
    return Errors(
        rms=rms,
        max=largest,
        scale_rms=scale_rms,
        scale_max=scale_max,
        max_abs=float(largest.max()),
        mean_abs=float(difference.mean()) / share,
        relative_rms=_ratio(_mean_square(rms) ** 0.5, _mean_square(scale_rms) ** 0.5),
        worst=_worst(difference, position_axis, counted),
    )


def _worst(
    difference: Values, position_axis: int, counted: Bool[np.ndarray, "batch position"] | None
) -> tuple[int, ...]:
    """The index of the largest; where there is no error at all, the first that counts."""
    at = np.unravel_index(int(difference.argmax()), difference.shape)
    if counted is not None and difference[at] == 0.0 and counted.any():
        row, position = np.argwhere(counted)[0]
        first = {0: row, position_axis: position}
        at = tuple(first.get(axis, 0) for axis in range(difference.ndim))
    return tuple(int(i) for i in at)


def per_position(values: Values, position_axis: int) -> tuple[PerPosition, PerPosition]:
    """rms and largest absolute value over all axes but the batch (0) and the position axis."""
    axes = tuple(axis for axis in range(values.ndim) if axis not in (0, position_axis))
    magnitude = np.abs(np.asarray(values, np.float64))
    return np.sqrt(np.square(magnitude).mean(axis=axes)), magnitude.max(axis=axes)


def noise_floor(own: PerPosition, scale: PerPosition, unit: float) -> PerPosition:
    """The error that counts as 1 noise multiple, per position: PyTorch's own, or half an ulp of the values there.

    Args:
        own: PyTorch's own error.
        scale: size of the values themselves.
        unit: unit roundoff of the precision.
    """
    floor: PerPosition = np.maximum(own, unit * scale)
    return floor


def noise_multiple(error: PerPosition, floor: PerPosition) -> PerPosition:
    """Error divided by the noise floor: 1 means "as good as PyTorch itself"."""
    multiple: PerPosition = np.divide(error, floor, out=np.where(error > 0, np.inf, 0.0), where=floor > 0)
    return multiple


def nmse(actual: Values, expected: Values) -> float:
    """Normalized mean squared error: sum (a - e)^2 / sum e^2."""
    difference = np.asarray(actual, np.float64) - expected
    return _finite_or_inf(_ratio(float(np.square(difference).sum()), float(np.square(expected).sum())))


def pcc(actual: Values, expected: Values) -> float | None:
    """Pearson's correlation over all elements; None where one side is constant (it means nothing)."""
    return pearson(np.asarray(actual, np.float64).ravel(), np.asarray(expected, np.float64).ravel())


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Pearson's r; None for fewer than 2 points, a constant side, or a value that is not finite."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float(np.clip((x * y).sum() / norm, -1.0, 1.0)) if norm > 0 else None


def kl_divergence(
    actual: Float[np.ndarray, "... vocab"], expected: Float[np.ndarray, "... vocab"]
) -> Float[np.ndarray, "..."]:
    """KL(softmax(expected) || softmax(actual)) in nats; infinite where `actual` is not finite."""
    p, q = log_softmax(expected), log_softmax(np.asarray(actual, np.float64))
    divergence = (np.exp(p) * (p - q)).sum(axis=-1)
    # Rounding can leave -1e-17 for equal inputs; the divergence itself is never negative.
    return np.where(np.isfinite(divergence), np.maximum(divergence, 0.0), np.inf)


def log_softmax(logits: Float[np.ndarray, "... vocab"]) -> Float[np.ndarray, "... vocab"]:
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        normalized: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def growth_p_value(profile: Float[np.ndarray, " position"], permutations: int = 999) -> float | None:
    """One-sided permutation p-value that a profile grows with position (Spearman's rank correlation).

    Source: Fisher's permutation test, p = (1 + #{r_perm >= r}) / (1 + permutations), with a fixed seed so
    that a report is reproducible. None for fewer than 4 positions: no arrangement of 3 is evidence.
    """
    if len(profile) < 4 or not np.isfinite(profile).all():
        return None
    ranks = np.argsort(np.argsort(profile)).astype(np.float64)
    ranks -= ranks.mean()
    order = np.arange(len(ranks), dtype=np.float64)
    order -= order.mean()
    shuffled = ranks[_shuffles(len(ranks), permutations)]
    return float((1 + (shuffled @ order >= ranks @ order - 1e-9).sum()) / (1 + permutations))


@functools.lru_cache(maxsize=32)
def _shuffles(length: int, permutations: int) -> Int[np.ndarray, "permutation position"]:
    """Random orders of so many positions: always the same ones."""
    return np.random.default_rng(0).permuted(np.tile(np.arange(length), (permutations, 1)), axis=1)


def _mean_square(values: PerPosition) -> float:
    return float(np.square(values).mean())


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0:
        return numerator / denominator
    return float("inf") if numerator > 0 else 0.0


def _finite_or_inf(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
