"""Embedding and head of a large vocabulary, of which neither is ever in memory as a whole.

In float64 each takes 4.4 GB in a model of 7 billion parameters. Of the embedding the rows are read that are looked
up; of the head so many rows at a time as `PART` bytes hold, and each part makes its part of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from harness.families.options import Architecture
from harness.run.port import Call
from harness.run.weights import Named

LARGE, PART = 256 * 2**20, 32 * 2**20  # bytes
Pair = tuple[Array, Array | None]  # a weight, and a bias


def is_large(arch: Architecture, dtype: jnp.dtype) -> bool:
    """Whether the embedding, or the head, is larger than `LARGE` at this dtype."""
    return arch.vocab * _bytes_a_row(arch, dtype) > LARGE


def looked_up(calls: Sequence[Call]) -> Int[np.ndarray, " row"]:
    """The rows of the embedding that the tokens of these calls have, ascending."""
    ids = [np.asarray(call.input_ids).ravel() for call in calls]
    return np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int32)


def within(rows: Int[np.ndarray, " row"], call: Call) -> Int[np.ndarray, "batch position"]:
    """The tokens of a call, as places among these rows."""
    return np.searchsorted(rows, np.asarray(call.input_ids)).astype(np.int32)


def parts(arch: Architecture, dtype: jnp.dtype) -> list[slice]:
    """The rows of the head, some at a time: equally many, where at most twice as many parts allow it."""
    least = -(-arch.vocab * _bytes_a_row(arch, dtype) // PART)
    number = next((n for n in range(least, 2 * least + 1) if arch.vocab % n == 0), least)
    size = -(-arch.vocab // number)
    return [slice(start, min(start + size, arch.vocab)) for start in range(0, arch.vocab, size)]


def head_parts(named: Named, arch: Architecture, dtype: jnp.dtype) -> Iterator[tuple[slice, Pair]]:
    """Weight [row, hidden] and bias [row] of each part of the head, read when its turn comes."""
    kind = "embed" if arch.tied_head else "logits"
    biased = "logits" in arch.biases
    for rows in parts(arch, dtype):
        bias = named.rows("logits", rows, "bias") if biased else None
        yield rows, (named.rows(kind, rows), bias)


def _bytes_a_row(arch: Architecture, dtype: jnp.dtype) -> int:
    return arch.hidden * jnp.dtype(dtype).itemsize
