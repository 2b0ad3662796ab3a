"""Masks at exact lengths: the one operation that would see how a batch is padded.

A wrong mask lets a query see keys that it should not see, and with them the padding that only this machinery has
put there: a single token would then show a bug that no port can show on a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.run.operations import Operations

MASKING = frozenset({"allowed", "probabilities"})


def at_exact_lengths(operations: Operations, lengths: Sequence[int]) -> Operations:
    """The same operations, with mask and softmax computed row by row, each over as many keys as it has.

    Args:
        operations: `allowed` and `probabilities` are the ones that are wrapped.
        lengths: of the rows of the batch that the operations will be given.
    """

    def probabilities(scores: Array, unmade: tuple[Array, Array], *sinks: Array) -> Array:
        (mask, window), given, whole = unmade, np.asarray(scores), np.zeros(scores.shape, scores.dtype)
        for row, length in enumerate(lengths):
            slots = jnp.arange(length, dtype=jnp.int32)
            seen = operations.allowed(jax.device_put(np.asarray(mask)[row : row + 1, :length]), slots, window)
            part = jax.device_put(given[row : row + 1, :, :length, :length])
            whole[row, :, :length, :length] = np.asarray(operations.probabilities(part, seen, *sinks))[0]
        return jax.device_put(whole)

    def unmade(mask: Array, slots: Array, window: Array) -> tuple[Array, Array]:
        return mask, window

    return replace(operations, allowed=unmade, probabilities=probabilities)
