"""The project's own port: a Flax (nnx) decoder of every family that is known, driven by the checkpoint's config.

It is the example of a port, the subject of the embedded golden, and the body in which bugs are planted: every
operation can be replaced (`Decoder.load(..., operations=replace(OPERATIONS, scores=mine))`).

It works layer-major. One layer's weights are in memory at a time, and one compiled function serves all layers.
In a check, inputs are padded on the right to a few lengths, so that it serves prompts of many lengths as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import open_checkpoint
from harness.families import families
from harness.families.options import Norm
from harness.run.arithmetic import operations_of
from harness.run.cache import Cache, Past
from harness.run.effort import QUICKLY, is_small
from harness.run.layer import DecoderLayer, Ids, Layer, Mask, Place, norm, places, skeleton
from harness.run.operations import Hidden, Operations
from harness.run.padding import pad
from harness.run.port import Call
from harness.run.spread import Spread
from harness.run.tapping import TapFunction, Tapped
from harness.run.weights import Kept, Named, Weights, ZeroWeights
from harness.taps import DIMS

Logits = Float[Array, "batch position vocab"]
KINDS = frozenset(DIMS)
Pair = tuple[Array, Array | None]  # a weight, and a bias


class Embedding(NamedTuple):
    """The tables of tokens and, where they are learned, of positions."""

    table: Float[Array, "vocab hidden"]
    positions: Float[Array, "rows hidden"] | None


class Stages(NamedTuple):
    """What is compiled."""

    embed: Tapped
    layer: Tapped
    head: Tapped


class Decoder:
    """The built-in port. See `harness.run.port` for the contract.

    Args:
        arch: what the config describes.
        weights: the checkpoint's parameters, converted to the dtype of the check as they are read.
        operations: the arithmetic; None is the architecture's own (`harness.run.arithmetic`).
        mesh: of the axes `data` and `model`, or one of them; None is one device.
    """

    def __init__(
        self,
        arch: Architecture,
        weights: Weights,
        operations: Operations | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        self.arch, self.weights = arch, weights
        self._spread = Spread(arch, mesh)
        self.ops = operations_of(arch) if operations is None else operations
        self._named = Named(weights, families()[arch.family], arch, self._spread)
        self._places = places(arch, self.ops)
        self._abstract = skeleton(arch, weights.dtype)[1]
        self._kept = Kept()
        self._quick = _stages(arch, weights.dtype, self.ops, quick=True)
        self._well = _stages(arch, weights.dtype, self.ops, quick=False)

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        config: Config,
        dtype: jnp.dtype,
        mesh: jax.sharding.Mesh | None = None,
        *,
        operations: Operations | None = None,
    ) -> Self:
        """Open a checkpoint directory in Hugging Face format; parameters are read layer by layer.

        Raises:
            CheckpointError: an architecture that is not known.
            PortError: a mesh with another axis than `data` and `model`.
        """
        weights = Weights(open_checkpoint(checkpoint, config), dtype)
        return cls(architecture_of(config), weights, operations, mesh)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the axes of its mesh do not divide."""
        return self._spread.notes

    def without_weights(self) -> Self:
        """The same decoder with zeros for weights, on one device, to be traced: see `harness.run.matmul_audit`."""
        return type(self)(self.arch, ZeroWeights(self.weights.checkpoint, self.weights.dtype), self.ops)

    def init_cache(self, batch: int, length: int, dtype: jnp.dtype) -> Cache:
        """An empty KV cache with room for `length` tokens per row."""
        return Cache.empty(self.arch, batch, length, dtype, self._spread.cache(batch))

    def forward(
        self, input_ids: Ids, positions: Ids, mask: Mask, cache: Cache | None, tap: TapFunction
    ) -> tuple[Logits, Cache | None]:
        """Logits of one input, and the cache with it."""
        return self.forward_sequences([[Call(input_ids, positions, mask, cache, tap)]])[0][0]

    def forward_sequences(self, sequences: Sequence[Sequence[Call]]) -> list[list[tuple[Logits, Cache | None]]]:
        """Logits of many inputs, of one call or several each, with each layer's weights read once for all of them.

        The first call of a sequence has the cache, or None. It goes from call to call; each call's result has it
        as it is after the last.

        Raises:
            PortError: a sequence has more tokens than its cache has room.
        """
        caches = [calls[0].cache for calls in sequences]
        for calls, cache in zip(sequences, caches, strict=True):
            if cache is not None:
                cache.check_room(sum(call.input_ids.shape[1] for call in calls))
        inputs = [
            [self._spread.call(pad(call) if call.cache is None and len(calls) == 1 else call) for call in calls]
            for calls in sequences
        ]
        embedding = self.embedding()
        hidden = [[self.embed(call, embedding) for call in calls] for calls in inputs]
        for index in range(self.arch.layers):
            state = self.state(index)
            for row, (calls, cache) in enumerate(zip(inputs, caches, strict=True)):
                past = None if cache is None else cache.layer(index)
                for n, call in enumerate(calls):
                    hidden[row][n], past = self.layer(call, index, state, hidden[row][n], past)
                    past = None if past is None else past._replace(filled=past.filled + hidden[row][n].shape[1])
                if past is not None:
                    caches[row] = caches[row].with_layer(index, past)
        norm, head = self.head_parameters(embedding)
        results = []
        for calls, padded, states, cache in zip(sequences, inputs, hidden, caches, strict=True):
            after = cache and cache.advanced(sum(call.input_ids.shape[1] for call in calls))
            logits = [self.head(call, norm, head, x) for call, x in zip(padded, states, strict=True)]
            results.append([(_cut(x, c.input_ids.shape[1]), after) for c, x in zip(calls, logits, strict=True)])
        return results

    def embedding(self) -> Embedding:
        """The embedding's parameters."""

        def read() -> Embedding:
            positions = self._named.model("positions") if self.arch.learned_positions else None
            return Embedding(self._named.model("embed"), positions)

        embedding: Embedding = self._kept("embedding", read)
        return embedding

    def state(self, index: int) -> nnx.State:
        """The parameters of one layer."""
        state: nnx.State = self._kept(index, lambda: self._named.layer(index, self._abstract))
        return state

    def head_parameters(self, embedding: Embedding) -> tuple[Pair, Pair]:
        """Weight and bias of the last norm and of the head, which may be the embedding's."""

        def read() -> tuple[Pair, Pair]:
            model = self._named.model
            head = embedding.table if self.arch.tied_head else model("logits")
            of_norm = model("final_norm"), model("final_norm", "bias") if self.arch.norm.bias else None
            return of_norm, (head.T, model("logits", "bias") if "logits" in self.arch.biases else None)

        parameters: tuple[Pair, Pair] = self._kept("head", read)
        return parameters

    def embed(self, call: Call, embedding: Embedding) -> Hidden:
        """The first stage of one call."""
        return self._for(call).embed(call.tap, "", embedding, call.input_ids, call.positions)

    def layer(
        self, call: Call, index: int, state: nnx.State, x: Hidden, past: Past | None
    ) -> tuple[Hidden, Past | None]:
        """One layer of one call, and the layer's part of the cache with the call in it."""
        after: tuple[Hidden, Past | None] = self._for(call).layer(
            call.tap, f"layers.{index}", state, x, call.positions, call.mask, self._places[index], past
        )
        return after

    def head(self, call: Call, of_norm: Pair, of_head: Pair, x: Hidden) -> Logits:
        """The last stage of one call."""
        return self._for(call).head(call.tap, "", of_norm, of_head, x)

    def _for(self, call: Call) -> Stages:
        return self._quick if is_small(self.arch, call) else self._well


def _cut(logits: Logits, length: int) -> Logits:
    """Without padding, where there is any: every slice is a small program of its own."""
    return logits if logits.shape[1] == length else logits[:, :length]


def _stages(arch: Architecture, dtype: jnp.dtype, operations: Operations, quick: bool) -> Stages:
    """The functions of embedding, layer and head; with the usual arithmetic decoders share what is compiled."""
    usual = operations is operations_of(arch)
    return _usual(arch, dtype, quick) if usual else _made(arch, dtype, operations, quick)


@lru_cache(maxsize=16)
def _usual(arch: Architecture, dtype: jnp.dtype, quick: bool) -> Stages:
    return _made(arch, dtype, operations_of(arch), quick)


def _made(arch: Architecture, dtype: jnp.dtype, operations: Operations, quick: bool) -> Stages:
    graph, _ = skeleton(arch, dtype)
    embed, layer = partial(_embed, operations), partial(_layer, graph, Layer(arch, operations))
    head = partial(_head, operations, arch.norm)
    return Stages(*(Tapped(one, KINDS, QUICKLY if quick else None) for one in (embed, layer, head)))


def _embed(ops: Operations, tap: TapFunction, embedding: Embedding, ids: Ids, positions: Ids) -> Hidden:
    x = ops.embed_scale(ops.embed(embedding.table, ids))
    return tap("embed", x if embedding.positions is None else ops.add_positions(x, embedding.positions, positions))


def _layer(
    graph: nnx.GraphDef[DecoderLayer],
    layer: Layer,
    tap: TapFunction,
    state: nnx.State,
    x: Hidden,
    positions: Ids,
    mask: Mask,
    place: Place,
    past: Past | None,
) -> tuple[Hidden, Past | None]:
    return layer(tap, nnx.merge(graph, state), x, positions, mask, place, past)


def _head(ops: Operations, spec: Norm, tap: TapFunction, of_norm: Pair, of_head: Pair, x: Hidden) -> Array:
    logits = ops.head(tap("final_norm", norm(ops.final_norm, x, spec, *of_norm)), *of_head)
    capped: Array = ops.logit_cap(ops.logit_scale(logits))
    return capped
