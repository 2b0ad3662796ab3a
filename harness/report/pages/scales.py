"""Two logarithmic scales: the colours of heat maps, and the ladder of noise, limit, weakest known bug and port.

Colours are steps in shares of the limit, with the limit on an edge: ten steps of cividis, which gets lighter from
step to step and reads the same without colour vision. Below the limit each step is twice the one before, beyond it
ten times.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.blocks import Ladder, Legend, Rung
from harness.report.document import LimitEntry
from harness.report.tables import BEYOND, Cell
from harness.report.wording import number

COLOURS = (
    *("#00204d", "#00336f", "#39486b", "#575c6d", "#707173"),
    *("#8a8779", "#a69d75", "#c4b56c", "#e4cf5b", "#ffea46"),
)
WITHIN = 4  # steps up to the limit
FIRST_WITH_DARK_TEXT = 5  # either text has a contrast of at least 4.5 on its steps


# The upper edges of all steps but the last, in shares of the limit.
EDGES = (
    *(1 / 2**halvings for halvings in range(WITHIN - 1, -1, -1)),
    *(10.0**tens for tens in range(1, len(COLOURS) - WITHIN)),
)


def step(share: float) -> int:
    """The step of a share of the limit: 0 to 9. The limit itself is within it."""
    return bisect_left(EDGES, share)


def legend(beyond: str = f"{BEYOND} ") -> Legend:
    """All steps, smallest first; those that are beyond the limit have a mark."""
    labels = [
        *("≤ ⅛", "≤ ¼", "≤ ½", "≤ 1"),
        *(f"≤ {short(edge)}" for edge in EDGES[WITHIN:]),
        f"> {short(EDGES[-1])}",
    ]
    return Legend(tuple(Cell(f"{beyond if n >= WITHIN else ''}{label}", n) for n, label in enumerate(labels)))


def short(multiple: float) -> str:
    """A multiple in few characters: 0.4, 3.1, 32, 4e5."""
    if math.isinf(multiple):
        return "NaN"
    if multiple < 9.95:
        return f"{multiple:.1f}".removesuffix(".0")
    if multiple < 999.5:
        return f"{multiple:.0f}"
    mantissa, exponent = f"{multiple:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


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
    rungs = [(*rung, rung[2]) for rung in fixed]
    rungs += [(m.kind, m.name, m.multiple, _where(m), at) for m, at in zip(measured, drawn, strict=True)]
    rungs.sort(key=lambda rung: math.inf if rung[4] is None else rung[4])
    decades = math.ceil((high - low) / MAX_TICKS)
    return Ladder(
        precision,
        tuple(Rung(kind, name, number(value), where, left(at)) for kind, name, value, where, at in rungs),
        left(limit),
        tuple((left(10.0**e), short(10.0**e) if e >= -1 else f"1e{e}") for e in range(low, high + 1, decades)),
        f"{ABOUT} {BLIND}" if limits.weakest_bug <= limit else ABOUT,
    )


def _share(measured: Measured) -> float:
    return (measured.multiple or 0.0) / (measured.limit or 1.0)


def _where(measured: Measured) -> str:
    return f"{measured.where}, of {short(measured.limit)}" if measured.limit else measured.where
