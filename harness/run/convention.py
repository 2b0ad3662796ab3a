"""A convention that is no fault: in rows that are padded on the left, positions may count from the pads.

RoPE is relative: if all positions of a row are larger by the number of its pads, its queries and keys are turned
by that many positions more, and probabilities and logits are what they were. A port that counts so declares it
(`positions_from_pads`). The golden's rotated queries and keys are then turned as well, before they are compared
and before they are handed on in replay: the port is judged by what it computes, at every tap.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from harness.along import Case
from harness.errors import PortError
from harness.families.frequencies import frequencies, turn
from harness.families.options import Architecture, Rope

# What holds the absolute position. Nothing else of a decoder with RoPE does.
TURNED = frozenset({"q_rope", "k_rope", "cache_k", "k_pe_rope", "cache_k_pe"})
SIDES = ("left",)  # padded on the right, positions that count from the row's beginning are the golden's own
NOTE = (
    "positions of left-padded rows count from the pads, as the port declares: the golden's queries and keys after "
    "RoPE, those in a cache too, are turned by the pads of each row before they are compared"
)


def refuse_where_positions_count(sides: Collection[str], arch: Architecture) -> None:
    """Refuse the declaration for a model in which not only differences of positions count.

    Raises:
        PortError: positions are learned, or queries grow with them.
    """
    reason = "positions are learned" if arch.learned_positions else ""
    if any(rope and rope.growth for rope in arch.ropes):
        reason = "queries grow with their position"
    if any(rope and rope.factors for rope in arch.ropes):
        reason = "frequencies go by the last position"
    if sides and reason:
        raise PortError(
            f"in this model positions that count from the pads give other logits: {reason}",
            where="positions_from_pads",
            expected="nothing",
            found=", ".join(sides),
            hint="count the positions of a row from its first token that is no padding",
        )


def shifts(case: Case) -> Int[np.ndarray, " batch"]:
    """By row, by how much positions that count from the row's beginning exceed the golden's."""
    first = case.mask.argmax(axis=1)
    rows = np.arange(case.batch)
    padded = first > 0
    return np.where(padded, first - case.positions[rows, first], 0)


def turned(
    value: Float[np.ndarray, "batch position ... head_dim"], by: Int[np.ndarray, " batch"], rope: Rope
) -> Float[np.ndarray, "batch position ... head_dim"]:
    """Queries or keys after RoPE, as they are at positions that are larger by so much in each row."""
    return turn(value, by.reshape(-1, *[1] * (value.ndim - 1)) * frequencies(rope)[0], rope)
