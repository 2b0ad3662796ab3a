"""The colour scale of the heat maps: logarithmic in shares of the limit, with the limit on an edge.

Ten steps of cividis, which gets lighter from step to step and reads the same without colour vision. Below the
limit each step is twice the one before, beyond it ten times.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from harness.report.blocks.page import Legend
from harness.report.blocks.table import BEYOND, Cell

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
