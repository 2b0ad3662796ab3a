"""The modes of a check: what the port runs on, and what its values are compared with.

    forward   its own activations, against the golden
    replay    golden inputs at every tap, against the golden
    prefill   its own activations, through a KV cache, against its own single call on the same tokens without one
    alone     its own activations, in a batch, each row against the golden of the prompt with the same token ids

`prefill` and `alone` ask whether two ways of running the same tokens agree: they say which way is to blame.
"""

from __future__ import annotations

MODES = ("forward", "replay", "prefill", "alone")
AGREEMENT_MODES = ("prefill", "alone")

# How many runs' rounding a comparison holds: the size of its unit, in PyTorch's own errors. Two runs of one port
# that are each within the limit of the truth are at most two limits apart, by the triangle inequality (for the rms
# as for the largest error): `prefill` never fails a correct port. Twice the unit says the same as twice the limit,
# and leaves one limit for all modes, in tables, ladders, heat maps and diffs.
RUNS = {"prefill": 2}


def unit_of(mode: str) -> int:
    """The size of the unit in which a mode counts errors, in PyTorch's own errors."""
    return RUNS.get(mode, 1)
