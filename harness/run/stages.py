"""What the built-in decoder compiles: one function for its embedding, one for all layers, one for its head.

Of a large vocabulary neither embedding nor head is ever in memory as a whole: in float64 each takes 4.4 GB in a
model of 7 billion parameters. Of the embedding the rows are read that are looked up; of the head so many rows at a
time as `PART` bytes hold, and each part makes its part of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from harness.architecture import Architecture
from harness.families.options import Norm
from harness.run.arithmetic import operations_of
from harness.run.block import through
from harness.run.cache import Past
from harness.run.layer import Ids, Layer, Mask, Place, norm
from harness.run.operations import Hidden, Operations
from harness.run.padding import QUICKLY
from harness.run.port import Call
from harness.run.tapping import TapFunction, Tapped
from harness.run.weights import AsStored, Named
from harness.taps import DIMS

KINDS = frozenset(DIMS)
LARGE, PART = 256 * 2**20, 32 * 2**20  # bytes
Pair = tuple[Array, Array | None]  # a weight, and a bias
Operation = Callable[..., Any]
OwnNorm = tuple[Operation, Norm]


class Embedding(NamedTuple):
    """The tables of tokens and, where they are learned, of positions."""

    table: Float[Array, "vocab hidden"]
    positions: Float[Array, "rows hidden"] | None


class Stages(NamedTuple):
    """What is compiled: `norm` and `part` are the head of a large vocabulary, last norm and some of the rows."""

    embed: Tapped
    layer: Tapped
    sparse: Tapped
    head: Tapped
    norm: Tapped
    part: Tapped


def stages(arch: Architecture, operations: Operations, quick: bool) -> Stages:
    """The functions of embedding, layer and head; with the same arithmetic decoders share what is compiled."""
    usual = operations is operations_of(arch)
    return _usual(arch, quick) if usual else _changed(arch, operations, quick)


@lru_cache(maxsize=16)
def _usual(arch: Architecture, quick: bool) -> Stages:
    return _made(arch, operations_of(arch), quick)


@lru_cache(maxsize=8)  # apart from the usual ones, which are wanted again when many others have been
def _changed(arch: Architecture, operations: Operations, quick: bool) -> Stages:
    return _made(arch, operations, quick)


def _made(arch: Architecture, operations: Operations, quick: bool) -> Stages:
    dense, sparse = (
        partial(_layer, partial(Layer, arch, operations, sparse)) for sparse in (False, arch.experts is not None)
    )
    norm_of_head = operations.final_norm, arch.norm
    logits = operations.head, operations.logit_scale, operations.logit_cap
    return Stages(
        _shared(_embed, quick, operations.embed, operations.embed_scale, operations.add_positions),
        _tapped(dense, quick),
        _tapped(sparse, quick),
        _shared(_head, quick, norm_of_head, logits),
        _shared(_final_norm, quick, norm_of_head),
        _shared(_part, quick, logits),
    )


def _tapped(function: Callable[..., Any], quick: bool) -> Tapped:
    return Tapped(function, KINDS, QUICKLY if quick else None)


@lru_cache(maxsize=32)
def _shared(function: Callable[..., Any], quick: bool, *own: Hashable) -> Tapped:
    """What is compiled of embedding and head, which decoders share that have the same operations there."""
    return _tapped(partial(function, *own), quick)


def _embed(
    look_up: Operation,
    scale: Operation,
    add_positions: Operation,
    tap: TapFunction,
    embedding: Embedding,
    ids: Ids,
    positions: Ids,
) -> Hidden:
    x = scale(look_up(embedding.table, ids))
    return tap("embed", x if embedding.positions is None else add_positions(x, embedding.positions, positions))


def _layer(
    layer: Callable[..., Layer],
    tap: TapFunction,
    state: nnx.State | AsStored,
    x: Hidden,
    positions: Ids,
    mask: Mask,
    place: Place,
    past: Past | None,
) -> tuple[Hidden, Past | None]:
    state = state.turned() if isinstance(state, AsStored) else state
    return through(layer(tap, state, positions, mask, place), x, past)


def _head(
    own_norm: OwnNorm, logits: Sequence[Operation], tap: TapFunction, of_norm: Pair, of_head: Pair, x: Hidden
) -> Array:
    return _logits(logits, of_head, _final_norm(own_norm, tap, of_norm, x))


def _final_norm(own_norm: OwnNorm, tap: TapFunction, of_norm: Pair, x: Hidden) -> Hidden:
    operation, spec = own_norm
    return tap("final_norm", norm(operation, spec, x, *of_norm))


def _logits(operations: Sequence[Operation], of_head: Pair, x: Hidden) -> Array:
    head, scale, cap = operations
    capped: Array = cap(scale(head(x, *of_head)))
    return capped


def _part(logits: Sequence[Operation], tap: TapFunction, of_head: Pair, x: Hidden) -> Array:
    weight, bias = of_head  # as the checkpoint has it, [row, hidden]
    return _logits(logits, (weight.T, bias), x)


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


def head_parts(named: Named, arch: Architecture, dtype: jnp.dtype) -> list[Callable[[], tuple[slice, Pair]]]:
    """Of each part of the head, what reads its weight [row, hidden] and bias [row]."""
    kind = "embed" if arch.tied_head else "logits"

    def read(rows: slice) -> tuple[slice, Pair]:
        bias = named.rows("logits", rows, "bias") if "logits" in arch.biases else None
        return rows, (named.rows(kind, rows), bias)

    return [partial(read, rows) for rows in parts(arch, dtype)]


def _bytes_a_row(arch: Architecture, dtype: jnp.dtype) -> int:
    return arch.hidden * jnp.dtype(dtype).itemsize
