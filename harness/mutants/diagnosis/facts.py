"""Facts about one wrong array: small pure functions (actual, golden) -> a fact, or None where there is none.

Each says something only where it holds nearly to the last digit: a factor that leaves half of the error
unexplained is no fact. `actual` and `golden` are float64 and finite, of one shape; axis 0 is the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float

Values = Float[np.ndarray, "..."]
# The share of the squared error that a fact has to explain before it is one.
NEARLY_ALL = 0.999
# A correlation that only rounding keeps from 1.
SAME = 0.99999
# Beyond this many rows an assignment takes seconds and tells a person nothing.
MOST_PERMUTED = 4096


@dataclass(frozen=True)
class Factor:
    """actual = value x golden; `left` is the share of the squared error that it does not explain."""

    value: float
    left: float


@dataclass(frozen=True, eq=False)
class Permutation:
    """actual[..., i, ...] is golden[..., order[i], ...] along an axis, up to a factor."""

    order: tuple[int, ...]


def factor(actual: Values, golden: Values) -> Factor | None:
    """One factor between the two, by least squares."""
    norm = float((golden * golden).sum())
    if norm == 0 or golden.size < 2:
        return None
    value = float((actual * golden).sum()) / norm
    left = _left(actual - value * golden, actual - golden)
    return Factor(value, left) if left <= 1 - NEARLY_ALL else None


def factor_per_feature(actual: Values, golden: Values) -> Float[np.ndarray, " features"] | None:
    """A factor for each feature of the last axis: a weight that is missing, or another one."""
    a, g = _rows(actual), _rows(golden)
    norm = (g * g).sum(axis=0)
    if len(g) < 4 or not norm.all():
        return None
    factors: np.ndarray = (a * g).sum(axis=0) / norm
    return factors if _left(a - factors * g, a - g) <= 1 - NEARLY_ALL else None


def offset(actual: Values, golden: Values) -> float | None:
    """One number that is added everywhere."""
    error = actual - golden
    if error.size < 4:
        return None
    mean = float(error.mean())
    return mean if _left(error - mean, error) <= 1 - NEARLY_ALL else None


def same_everywhere(actual: Values, golden: Values, position_axis: int) -> bool:
    """Whether the same vector is added at every position: a bias that is missing, or one too many."""
    error = np.moveaxis(actual - golden, position_axis, 1)
    error = error.reshape(error.shape[0] * error.shape[1], -1)
    return len(error) > 2 and error.shape[1] > 1 and _left(error - error.mean(axis=0), error) <= 1 - NEARLY_ALL


def permutation(actual: Values, golden: Values, axis: int) -> Permutation | None:
    """Another order along an axis: an assignment by correlation that is not the identity."""
    from scipy.optimize import linear_sum_assignment

    a, g = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (actual, golden))
    if not 1 < len(a) <= MOST_PERMUTED or a.shape[1] < 4:
        return None
    correlation = _normalized(a) @ _normalized(g).T
    rows, order = linear_sum_assignment(-correlation)
    matched = correlation[rows, order]
    moved = order != rows
    # Rows that hardly vary correlate with each other: moved rows have to be better where they are now.
    better = correlation[rows, order][moved] > np.diag(correlation)[moved] + 1e-3
    if not moved.any() or matched.min() < SAME or not better.all():
        return None
    return Permutation(tuple(int(i) for i in order))


def clean_along(actual: Values, golden: Values, axis: int, floor: float) -> tuple[int, ...] | None:
    """Indices along an axis at which the error is at most `floor`; None where all or none are."""
    error = np.abs(np.moveaxis(actual - golden, axis, 0)).reshape(actual.shape[axis], -1).max(axis=1)
    clean = np.flatnonzero(error <= floor)
    return tuple(int(i) for i in clean) if 0 < len(clean) < len(error) else None


def lengths_kept(actual: Values, golden: Values) -> bool:
    """Whether every vector of the last axis keeps its length: another rotation, and no scale."""
    a, g = (np.sqrt(np.square(_rows(values)).sum(axis=1)) for values in (actual, golden))
    return bool(actual.shape[-1] > 1 and g.all() and np.allclose(a, g, rtol=1e-5, atol=0))


def fits_in(actual: Values) -> str | None:
    """The narrowest type that holds every value exactly: what was rounded on the way."""
    if actual.size < 8 or not np.any(actual):
        return None
    for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16), ("float32", np.float32)):
        with np.errstate(over="ignore"):
            if np.array_equal(actual.astype(np.float32).astype(dtype).astype(np.float64), actual):
                return name
    return None


def rounding_sized(relative_rms: float) -> str | None:
    """The type whose rounding is as large as this error: within a factor of 4 of half its unit roundoff."""
    if not 0 < relative_rms < np.inf:
        return None
    units = {"bfloat16": 2.0**-9, "tf32 or float16": 2.0**-12, "float32": 2.0**-25}
    away = {name: abs(np.log2(relative_rms / unit)) for name, unit in units.items()}
    nearest = min(away, key=away.__getitem__)
    return nearest if away[nearest] <= 2 else None


def mass_ahead(probs: Float[np.ndarray, "batch head position key"]) -> float:
    """The largest probability that a query gives to a key after itself."""
    queries, keys = probs.shape[2:]
    ahead = np.arange(keys)[None] > np.arange(keys - queries, keys)[:, None]
    return float(np.abs(probs[..., ahead]).max(initial=0.0))


def without_a_key(
    probs: Float[np.ndarray, "batch head position key"], golden: Float[np.ndarray, "batch head position key"]
) -> Bool[np.ndarray, "batch head position"]:
    """The rows that are the same at all keys and were not: a softmax over nothing but hidden scores."""
    flat, golden_flat = (np.ptp(p, axis=-1) <= 1e-4 * np.abs(p).max(axis=-1) for p in (probs, golden))
    hidden: np.ndarray = flat & ~golden_flat & probs.any(axis=-1)
    return hidden


def sums(probs: Float[np.ndarray, "batch head position key"]) -> tuple[float, float]:
    """The least and the largest sum of a row of probabilities: 1 and 1 where it is a softmax."""
    totals = probs.sum(axis=-1)
    return float(totals.min()), float(totals.max())


def runs(indices: Sequence[int]) -> str:
    """Indices as a person writes them: `0, 2-5, 9`."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _rows(values: Values) -> Float[np.ndarray, "rows features"]:
    return values.reshape(-1, values.shape[-1])


def _normalized(rows: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, "rows n"]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    unit: np.ndarray = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit


def _left(residual: Values, error: Values) -> float:
    """The share of a squared error that is left; 1 where there is no error to explain."""
    whole = float(np.square(error).sum())
    return float(np.square(residual).sum()) / whole if whole > 0 else 1.0
