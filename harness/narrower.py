"""A model that computes in a narrower dtype than it is asked for: seen in its values, and the size of errors.

Such a model is wrong at every tap, by the rounding of that dtype, and none of that is a bug of a formula. Where
the whole model is like that it is said once; what is wrong by more than that rounding stays a finding of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import ml_dtypes
import numpy as np
from jaxtyping import Num

from harness.metrics import UNIT_ROUNDOFF
from harness.results import TapResult
from harness.taps import kind_of

# From narrow to wide; float64 is what nothing is narrower than.
WIDTHS = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
FIRST = 4096  # numbers, of which one is hardly ever held by accident: most values are looked at no further
FEWEST = 3  # kinds: one or two operations in a narrower dtype are operations, and not the model
# Unit roundoffs: a few operations leave this much in most cases, and this much where values cancel.
USUAL, LARGEST = 5, 20
WRONG = ("introduced", "dtype")


@dataclass(frozen=True)
class Narrower:
    """What a model computes in at one precision.

    Attributes:
        precision: what it was asked for.
        dtype: whose numbers its values are.
        kinds: of taps whose values are such numbers in all cases of whole prompts.
        of: how many kinds there are.
        rounding: kinds that are wrong, by no more than the rounding of that dtype.
        command: the check of the port as it is.
    """

    precision: str
    dtype: str
    kinds: tuple[str, ...]
    of: int
    rounding: tuple[str, ...]
    command: str | None = None


def held_by(values: Num[np.ndarray, "..."], precision: str) -> str | None:
    """The narrowest dtype that holds every value exactly, where it is narrower than the precision; else None."""
    if not values.size or values.dtype.name not in UNIT_ROUNDOFF:
        return None
    flat = np.ravel(values)
    for name, dtype in WIDTHS.items():
        if name == precision:
            return None
        if values.dtype == dtype or all(_survives(part, dtype) for part in (flat[:FIRST], flat[FIRST:])):
            return name
    return None


def _survives(values: Num[np.ndarray, " n"], dtype: np.dtype) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(dtype).astype(values.dtype) == values).all())


def narrower(results: Sequence[TapResult]) -> tuple[Narrower, ...]:
    """What the whole model computes in, at every precision at which that is narrower than what was asked for."""
    seen = []
    for precision in dict.fromkeys(r.precision for r in results):
        widths = tuple(WIDTHS)[: [*WIDTHS, "float64"].index(precision)]
        found = (_narrower(results, precision, dtype) for dtype in widths)
        seen.append(next((one for one in found if one is not None), None))
    return tuple(one for one in seen if one is not None)


def _narrower(results: Sequence[TapResult], precision: str, dtype: str) -> Narrower | None:
    """Whether half of the kinds of taps are wrong, and hold numbers of a dtype alone."""
    by_kind: dict[str, list[TapResult]] = {}
    for result in results:
        if result.precision == precision:
            by_kind.setdefault(kind_of(result.tap), []).append(result)
    wrong = {kind: found for kind, rs in by_kind.items() if (found := [r for r in rs if r.verdict in WRONG])}
    holding = tuple(WIDTHS)[: tuple(WIDTHS).index(dtype) + 1]
    # A cache is as wide as the check asks for, and what is computed from it: whole prompts say more.
    whole = {kind: [r for r in rs if not r.calls] or rs for kind, rs in by_kind.items()}
    held = tuple(kind for kind, rs in whole.items() if all(r.held_by in holding for r in rs))
    several = [kind for kind in held if kind in wrong]
    if len(several) < max(FEWEST, len(by_kind) / 2):
        return None
    rounding = tuple(kind for kind, rs in wrong.items() if _is_rounding(rs, dtype))
    return Narrower(precision, dtype, held, len(by_kind), rounding)


def _is_rounding(results: Sequence[TapResult], dtype: str) -> bool:
    """Whether errors are of the size of a dtype's rounding; of values that were not compared nothing is known.

    Replay says it of the operation alone: a forward error holds what came in from upstream as well.
    """
    compared = [r for r in results if r.verdict == "introduced"]
    compared = [r for r in compared if r.mode == "replay"] or compared
    sizes = [float("inf") if r.rel_rms is None else r.rel_rms for r in compared]
    unit = UNIT_ROUNDOFF[dtype]
    return bool(sizes) and median(sizes) <= USUAL * unit and max(sizes) <= LARGEST * unit


def explained(found: Sequence[Narrower]) -> Mapping[str, frozenset[str]]:
    """By precision, the kinds of taps of which it is enough to say that."""
    return {one.precision: frozenset(one.rounding) for one in found}
