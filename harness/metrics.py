"""Small pure functions (actual, expected) -> number. float64 inside; a NaN on one side is infinite, never NaN.

Arrays come with a position axis; what is "per position" has shape [batch, position].
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Int, Num

T = TypeVar("T")
Values = Num[np.ndarray, "..."]
PerPosition = Float[np.ndarray, "batch position"]

BLOCK = 1 << 16  # numbers, of each side
MANY = 1 << 21  # numbers, of which the blocks are shared out among cores

# Unit roundoff: half the distance from 1 to the next number, by precision.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}
# From narrow to wide; float64 is what nothing is narrower than.
NARROW = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
FIRST = 64  # numbers, of which one is hardly ever held by accident: most values are looked at no further


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

    @property
    def nmse(self) -> float:
        """Normalized mean squared error: sum (a - e)^2 / sum e^2."""
        value = _ratio(_mean_square(self.rms), _mean_square(self.scale_rms))
        return value if np.isfinite(value) else float("inf")


def errors(
    actual: Values, expected: Values, position_axis: int, counted: Bool[np.ndarray, "batch position"] | None = None
) -> Errors:
    """Compare two arrays of one shape, per position and as a whole.

    Args:
        actual: any float dtype; NaN and infinity count as an infinite error.
        expected: finite, same shape; axis 0 is the batch.
        position_axis: the axis that counts positions.
        counted: False at padding: whatever is there, it is no error. None means that all positions count.
    """
    whole = expected.shape
    shape = batch, _, length, _ = _form(whole, position_axis)
    actual, expected = actual.reshape(shape), expected.reshape(shape)

    def block(here: slice) -> tuple[tuple[PerPosition, ...], float, tuple[float, int]]:
        truth = np.asarray(expected[:, :, here], np.float64)  # [batch, before, position, after]
        difference = actual[:, :, here].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            np.abs(np.subtract(difference, truth, out=difference), out=difference)
            if counted is not None and not counted[:, here].all():
                padding = ~counted[:, None, here, None]
                np.copyto(difference, 0.0, where=padding)
                truth = np.where(padding, 0.0, truth)
            top = np.maximum.reduce(difference, axis=(1, 3))
            if not math.isfinite(np.add.reduce(top, axis=None)):  # of what is not negative: one of them is not
                difference[~np.isfinite(difference)] = np.inf
                top = np.maximum.reduce(difference, axis=(1, 3))
            squares = _squares(difference)
        high, low = np.maximum.reduce(truth, axis=(1, 3)), np.minimum.reduce(truth, axis=(1, 3))
        per_position = squares, top, _squares(truth), np.maximum(high, -low)
        return per_position, float(np.add.reduce(difference, axis=None)), _largest(difference, here, shape)

    step = max(1, BLOCK // max(1, expected.size // length))  # positions whose numbers a core's cache holds
    parts, totals, largest_of = zip(*each(block, length, step, expected.size), strict=True)
    total, worst = sum(totals), max(largest_of, key=lambda pair: (pair[0], -pair[1]))
    squares, largest, sizes, scale_max = parts[0] if len(parts) == 1 else map(_joined, zip(*parts, strict=True))
    numbers = shape[1] * shape[3]
    share = 1.0 if counted is None else float(counted.mean())
    rms, scale_rms = np.sqrt(squares / numbers), np.sqrt(sizes / numbers)
    return Errors(
        rms=rms,
        max=largest,
        scale_rms=scale_rms,
        scale_max=scale_max,
        max_abs=float(largest.max()),
        mean_abs=total / (batch * length * numbers) / share,
        relative_rms=_ratio(_mean_square(rms) ** 0.5, _mean_square(scale_rms) ** 0.5),
        worst=_worst(worst, whole, position_axis, counted),
    )


def each(function: Callable[[slice], T], length: int, step: int, numbers: int) -> Iterable[T]:
    """What a function gives of so many places at a time, in order: everything is computed in one pass over memory.

    Args:
        numbers: in all; many are shared out among all cores, since numpy frees Python's lock.
    """
    blocks = (slice(start, min(start + step, length)) for start in range(0, length, step))
    if numbers < MANY:
        return map(function, blocks)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, blocks))


def _form(shape: tuple[int, ...], position_axis: int) -> tuple[int, int, int, int]:
    """A shape as [batch, before, position, after], with the axes between and behind those two taken together."""
    return shape[0], math.prod(shape[1:position_axis]), shape[position_axis], math.prod(shape[position_axis + 1 :])


def _joined(parts: Sequence[PerPosition]) -> PerPosition:
    return np.concatenate(parts, axis=1)


def _squares(values: Float[np.ndarray, "batch before position after"]) -> PerPosition:
    return np.asarray(np.einsum("bpsn,bpsn->bs", values, values))


def _largest(
    difference: Float[np.ndarray, "batch before position after"], here: slice, shape: tuple[int, int, int, int]
) -> tuple[float, int]:
    """The largest of a block, and its index in the whole array laid out flat."""
    index = int(difference.argmax())
    value = float(difference.item(index))
    if difference.shape == shape:
        return value, index
    b, before, position, after = np.unravel_index(index, difference.shape)
    return value, int(np.ravel_multi_index((b, before, here.start + position, after), shape))


def _worst(
    largest: tuple[float, int],
    shape: tuple[int, ...],
    position_axis: int,
    counted: Bool[np.ndarray, "batch position"] | None,
) -> tuple[int, ...]:
    """The index of the largest; where there is no error at all, the first that counts."""
    at = np.unravel_index(largest[1], shape)
    if counted is not None and largest[0] == 0.0 and counted.any():
        row, position = np.argwhere(counted)[0]
        first = {0: row, position_axis: position}
        at = tuple(first.get(axis, 0) for axis in range(len(shape)))
    return tuple(int(i) for i in at)


def per_position(values: Values, position_axis: int) -> tuple[PerPosition, PerPosition]:
    """rms and largest absolute value over all axes but the batch (0) and the position axis."""
    sizes = errors(values, np.zeros_like(values), position_axis)
    return sizes.rms, sizes.max


def noise_floor(own: PerPosition | float, scale: PerPosition, unit: float) -> PerPosition:
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
    known = floor > 0
    if known.all():
        return np.asarray(error / floor)
    return np.asarray(np.divide(error, floor, out=np.where(error > 0, np.inf, 0.0), where=known))


def held_by(values: Num[np.ndarray, "..."], precision: str) -> str | None:
    """The narrowest dtype that holds every value exactly, where it is narrower than the precision; else None."""
    if not values.size or values.dtype.name not in UNIT_ROUNDOFF:
        return None
    first = values.flat[:FIRST]
    for name, dtype in NARROW.items():
        if name == precision:
            return None
        if values.dtype == dtype or (_survives(first, dtype) and _survives(np.ravel(values)[FIRST:], dtype)):
            return name
    return None


def _survives(values: Num[np.ndarray, " n"], dtype: np.dtype) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(dtype).astype(values.dtype) == values).all())


def pcc(actual: Values, expected: Values) -> float | None:
    """Pearson's correlation over all elements; None where one side is constant (it means nothing)."""
    both = actual.reshape(-1), expected.reshape(-1)
    means = [float(side.mean(dtype=np.float64)) for side in both]

    def block(here: slice) -> Float[np.ndarray, "3"]:
        x, y = (side[here].astype(np.float64) for side in both)
        x -= means[0]
        y -= means[1]
        # BLAS would share out each block.
        return np.array([np.einsum("n,n->", *pair) for pair in ((x, x), (y, y), (x, y))])

    sums = sum(each(block, len(both[0]), BLOCK, len(both[0])), np.zeros(3))
    norm = float(np.sqrt(sums[0] * sums[1]))
    if len(both[0]) < 2 or not np.isfinite(sums).all() or norm == 0:
        return None
    return float(np.clip(sums[2] / norm, -1.0, 1.0))


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Pearson's r; None for fewer than 2 points, a constant side, or a value that is not finite."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    total = np.add.reduce
    x, y = x - total(x) / len(x), y - total(y) / len(y)
    norm = float(np.sqrt(total(np.square(x)) * total(np.square(y))))
    if not norm > 0:
        return None
    r = float(total(x * y) / norm)
    return -1.0 if r < -1 else 1.0 if r > 1 else r


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
    return float(np.add.reduce(np.square(values), axis=None) / values.size)


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0:
        return numerator / denominator
    return float("inf") if numerator > 0 else 0.0
