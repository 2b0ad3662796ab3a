"""The modes of a check: what the port runs on, and what its values are compared with.

    forward   its own activations, against the golden
    replay    golden inputs at every tap, against the golden
    prefill   a case with a KV cache on its own activations, against its own single call on the same tokens without one
    alone     a batch on its own activations, each row against the golden of the prompt with the very same token ids

`prefill` and `alone` ask whether two ways of running the same tokens agree: they say which way is to blame.
"""

from __future__ import annotations

MODES = ("forward", "replay", "prefill", "alone")
AGREEMENT_MODES = ("prefill", "alone")

# How many runs' rounding a comparison holds: the size of its unit, in PyTorch's own errors. Two runs of one port
# that are each within the limit of the truth are, by the triangle inequality (for the rms as for the largest error),
# at most two limits apart: `prefill` never fails a correct port. Twice the unit says the same as twice the limit, and
# leaves one limit for all modes, in tables, ladders, heat maps and diffs.
RUNS = {"prefill": 2}


def unit_of(mode: str) -> int:
    """The size of the unit in which a mode counts errors, in PyTorch's own errors."""
    return RUNS.get(mode, 1)
