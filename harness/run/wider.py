"""A tap that is wider than its dtype is compared all the same: no bug hides behind a cast that is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Num

from harness.calibration import Floor
from harness.comparison import Place, Scope, TapResult, compare
from harness.tolerances import Limit

FLOATS = ("bfloat16", "float32", "float64")  # from narrow to wide


def compare_at(
    place: Place,
    actual: Num[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    noise: Floor | None,
    limit: Limit,
    dtype: str,
    scope: Scope | None = None,
) -> TapResult:
    """As `harness.comparison.compare`; of a wider dtype the values are judged too.

    Returns:
        Of a wider dtype: the verdict `dtype` where its values match, and the one on its values where they do not;
        `expected` and `found` say in both cases that the contract is broken.
    """
    found = actual.dtype.name
    if not _is_wider(found, dtype):
        return compare(place, actual, truth, noise, limit, dtype, scope)
    result = compare(place, actual, truth, noise, limit, found, scope)
    if result.verdict == "shape":
        return result
    return replace(
        result, verdict="dtype" if result.verdict == "match" else result.verdict, expected=dtype, found=found
    )


def _is_wider(found: str, dtype: str) -> bool:
    return found in FLOATS and dtype in FLOATS and FLOATS.index(found) > FLOATS.index(dtype)
