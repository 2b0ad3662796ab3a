"""Masks at exact lengths: the one operation that would see how a batch is padded.

A wrong mask lets a query see keys that it should not see, and with them the padding that only this machinery has
put there: a single token would then show a bug that no port can show on a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array

from harness.run.operations import Operations


def at_exact_lengths(operations: Operations, lengths: Sequence[int]) -> Operations:
    """The same operations, with mask and softmax computed over as many keys as a row has, for rows of one length.

    Args:
        operations: `allowed` and `probabilities` are the ones that are wrapped.
        lengths: of the rows of the batch that the operations will be given.
    """

    def probabilities(scores: Array, deferred: tuple[Array, Array], *sinks: Array) -> Array:
        (mask, window), given, whole = deferred, np.asarray(scores), np.zeros(scores.shape, scores.dtype)
        for length in dict.fromkeys(lengths):
            rows = [row for row, own in enumerate(lengths) if own == length]
            slots = np.arange(length, dtype=np.int32)
            seen = operations.allowed(jax.device_put(np.asarray(mask)[rows, :length]), slots, window)
            part = jax.device_put(given[rows, :, :length, :length])
            whole[rows, :, :length, :length] = np.asarray(operations.probabilities(part, seen, *sinks))
        return jax.device_put(whole)

    def deferred(mask: Array, slots: Array, window: Array) -> tuple[Array, Array]:
        return mask, window

    return replace(operations, allowed=deferred, probabilities=probabilities)
