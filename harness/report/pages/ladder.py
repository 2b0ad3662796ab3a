"""The ladder: noise, limit, weakest known bug and the port, on one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.blocks.page import Ladder, Rung
from harness.report.document import LimitEntry
from harness.report.pages.scale import short
from harness.report.wording import number

MAX_TICKS = 7
ABOUT = "Largest rms multiple, smallest first. Tinted: beyond the limit."
BLIND = "The weakest known bug is below the limit: it cannot be seen at this precision, and belongs to another."


@dataclass(frozen=True)
class Measured:
    """A port's largest rms multiple: what it is of, the multiple (None: not finite), where it is, the limit there.

    `kind` is port; in a diff, the side before the fix is of kind before.
    """

    name: str
    multiple: float | None
    where: str
    limit: float | None
    kind: str = "port"


def ladder(precision: str, unit: str, limits: LimitEntry, measured: Sequence[Measured]) -> Ladder:
    """Place everything on an axis of whole decades.

    Args:
        precision: which precision it is of.
        unit: what a multiple of 1 is, in words.
        limits: the limits in force there.
        measured: the port's largest multiples; a diff has several.
    """
    # Every place has a limit of its own: what is nearest to its limit says where that is drawn, what is measured
    # elsewhere stands as far from it as it is from its own.
    nearest = max((m for m in measured if m.limit and m.multiple), key=_share, default=None)
    limit = nearest.limit if nearest and nearest.limit else limits.allowance
    drawn = [None if m.multiple is None else _share(m) * limit if m.limit else m.multiple for m in measured]
    known = [1.0, limit, limits.weakest_bug, *filter(None, drawn)]
    low, high = math.floor(math.log10(min(known)) - 0.2), math.ceil(math.log10(max(known)) + 0.2)

    def left(multiple: float | None) -> float:
        if multiple is None:
            return 100.0  # not finite: at the end of the axis
        exponent = math.log10(multiple) if multiple > 0 else low
        return round(100 * (exponent - low) / (high - low), 1)

    fixed: tuple[tuple[str, str, float | None, str], ...] = (
        ("noise", "noise", 1.0, unit),
        ("limit", "limit", limit, "the largest that still matches, where this port is nearest to it"),
        ("bug", "weakest known bug", limits.weakest_bug, "planted, in the embedded golden"),
    )
    rungs = [(*one, one[2]) for one in fixed]
    rungs += [(m.kind, m.name, m.multiple, _where(m), at) for m, at in zip(measured, drawn, strict=True)]
    rungs.sort(key=lambda rung: math.inf if rung[4] is None else rung[4])
    every = math.ceil((high - low) / MAX_TICKS)
    return Ladder(
        precision,
        tuple(Rung(kind, name, number(value), where, left(at)) for kind, name, value, where, at in rungs),
        left(limit),
        tuple((left(10.0**e), short(10.0**e) if e >= -1 else f"1e{e}") for e in range(low, high + 1, every)),
        f"{ABOUT} {BLIND}" if limits.weakest_bug <= limit else ABOUT,
    )


def _share(measured: Measured) -> float:
    return (measured.multiple or 0.0) / (measured.limit or 1.0)


def _where(measured: Measured) -> str:
    return f"{measured.where}, of {short(measured.limit)}" if measured.limit else measured.where
