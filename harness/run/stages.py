"""What the built-in decoder compiles: one function for its embedding, one for all layers, one for its head."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from harness.architecture import Architecture
from harness.families.options import Norm
from harness.run.arithmetic import operations_of
from harness.run.cache import Past
from harness.run.effort import QUICKLY
from harness.run.layer import Ids, Layer, Mask, Place, norm
from harness.run.modules import DecoderLayer, skeleton
from harness.run.operations import Hidden, Operations
from harness.run.tapping import TapFunction, Tapped
from harness.run.vocabulary import Pair
from harness.run.weights import AsStored
from harness.taps import DIMS

KINDS = frozenset(DIMS)


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


def stages(arch: Architecture, dtype: jnp.dtype, operations: Operations, quick: bool) -> Stages:
    """The functions of embedding, layer and head; with the usual arithmetic decoders share what is compiled."""
    usual = operations is operations_of(arch)
    return _usual(arch, dtype, quick) if usual else _made(arch, dtype, operations, quick)


@lru_cache(maxsize=16)
def _usual(arch: Architecture, dtype: jnp.dtype, quick: bool) -> Stages:
    return _made(arch, dtype, operations_of(arch), quick)


def _made(arch: Architecture, dtype: jnp.dtype, operations: Operations, quick: bool) -> Stages:
    layers = (
        partial(_layer, skeleton(arch, dtype, sparse)[0], Layer(arch, operations, sparse))
        for sparse in (False, arch.experts is not None)
    )
    functions = (
        partial(_embed, operations),
        *layers,
        partial(_head, operations, arch.norm),
        partial(_final_norm, operations, arch.norm),
        partial(_part, operations),
    )
    return Stages(*(Tapped(one, KINDS, QUICKLY if quick else None) for one in functions))


def _embed(ops: Operations, tap: TapFunction, embedding: Embedding, ids: Ids, positions: Ids) -> Hidden:
    x = ops.embed_scale(ops.embed(embedding.table, ids))
    return tap("embed", x if embedding.positions is None else ops.add_positions(x, embedding.positions, positions))


def _layer(
    graph: nnx.GraphDef[DecoderLayer],
    layer: Layer,
    tap: TapFunction,
    state: nnx.State | AsStored,
    x: Hidden,
    positions: Ids,
    mask: Mask,
    place: Place,
    past: Past | None,
) -> tuple[Hidden, Past | None]:
    state = state.turned() if isinstance(state, AsStored) else state
    return layer(tap, nnx.merge(graph, state), x, positions, mask, place, past)


def _head(ops: Operations, spec: Norm, tap: TapFunction, of_norm: Pair, of_head: Pair, x: Hidden) -> Array:
    return _logits(ops, tap, of_head, _final_norm(ops, spec, tap, of_norm, x))


def _final_norm(ops: Operations, spec: Norm, tap: TapFunction, of_norm: Pair, x: Hidden) -> Hidden:
    return tap("final_norm", norm(ops.final_norm, x, spec, *of_norm))


def _logits(ops: Operations, tap: TapFunction, of_head: Pair, x: Hidden) -> Array:
    capped: Array = ops.logit_cap(ops.logit_scale(ops.head(x, *of_head)))
    return capped


def _part(ops: Operations, tap: TapFunction, of_head: Pair, x: Hidden) -> Array:
    weight, bias = of_head  # as the checkpoint has it, [row, hidden]
    return _logits(ops, tap, (weight.T, bias), x)
