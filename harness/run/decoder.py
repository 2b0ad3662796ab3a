"""The project's own port: a Flax (nnx) Qwen2 decoder, driven by the checkpoint's config.

It is the example of a port, the subject of the embedded golden, and the body in which bugs are planted: every
operation can be replaced (`Decoder.load(..., operations=replace(OPERATIONS, scores=mine))`).

It works layer-major. One layer's weights are in memory at a time, and one compiled function serves all layers.
In a check, inputs are padded on the right to a few lengths, so that it serves prompts of many lengths as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError, PortError
from harness.run.cache import Cache, Past
from harness.run.layer import DecoderLayer, Ids, Mask, Window, skeleton
from harness.run.operations import NO_WINDOW, OPERATIONS, Hidden, Operations
from harness.run.padding import pad
from harness.run.port import Call
from harness.run.tapping import TapFunction, Tapped
from harness.run.weights import Kept, Weights, ZeroWeights, layer_state

Logits = Float[Array, "batch position vocab"]
KINDS = Architecture.kinds()


class Decoder:
    """The built-in port. See `harness.run.port` for the contract.

    Args:
        arch: what the config describes.
        weights: the checkpoint's parameters, converted to the dtype of the check as they are read.
        operations: the arithmetic.

    Raises:
        CheckpointError: an activation that this decoder does not compute.
    """

    def __init__(self, arch: Architecture, weights: Weights, operations: Operations = OPERATIONS) -> None:
        if arch.activation != "silu":
            raise CheckpointError(
                "the built-in decoder does not compute this activation",
                where="config.json: hidden_act",
                expected="silu",
                found=arch.activation,
                hint="bring a port that does: --port package.module:Name",
            )
        self.arch, self.weights, self.ops = arch, weights, operations
        self._windows = [np.int32(min(window or NO_WINDOW, NO_WINDOW)) for window in arch.windows]
        self._abstract = skeleton(arch, weights.dtype)[1]
        self._kept = Kept()
        self._embed, self._layer, self._head = _stages(arch, weights.dtype, operations)

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        config: Config,
        dtype: jnp.dtype,
        mesh: jax.sharding.Mesh | None = None,
        *,
        operations: Operations = OPERATIONS,
    ) -> Self:
        """Open a checkpoint directory in Hugging Face format; parameters are read layer by layer.

        Raises:
            CheckpointError: an architecture or an activation that this decoder does not compute.
            PortError: a mesh, which it does not use.
        """
        if mesh is not None:
            raise PortError("the built-in decoder runs on one device", found=mesh, hint="pass no mesh")
        return cls(architecture_of(config), Weights(Checkpoint(checkpoint), dtype), operations)

    def without_weights(self) -> Self:
        """The same decoder with zeros for weights, to be traced: see `harness.run.matmul_audit`."""
        return type(self)(self.arch, ZeroWeights(self.weights.checkpoint, self.weights.dtype), self.ops)

    def init_cache(self, batch: int, length: int, dtype: jnp.dtype) -> Cache:
        """An empty KV cache with room for `length` tokens per row."""
        return Cache.empty(self.arch, batch, length, dtype)

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
            [pad(call) if call.cache is None and len(calls) == 1 else call for call in calls]
            for calls in sequences
        ]
        table = self.embedding()
        hidden = [[self.embed(call, table) for call in calls] for calls in inputs]
        for index in range(self.arch.layers):
            state = self.state(index)
            for row, (calls, cache) in enumerate(zip(inputs, caches, strict=True)):
                past = None if cache is None else cache.layer(index)
                for n, call in enumerate(calls):
                    hidden[row][n], past = self.layer(call, index, state, hidden[row][n], past)
                    past = None if past is None else past._replace(filled=past.filled + hidden[row][n].shape[1])
                if past is not None:
                    caches[row] = caches[row].with_layer(index, past)
        norm, head = self.head_parameters(table)
        results = []
        for calls, padded, states, cache in zip(sequences, inputs, hidden, caches, strict=True):
            after = cache and cache.advanced(sum(call.input_ids.shape[1] for call in calls))
            logits = [self.head(call, norm, head, x) for call, x in zip(padded, states, strict=True)]
            results.append([(_cut(x, c.input_ids.shape[1]), after) for c, x in zip(calls, logits, strict=True)])
        return results

    def embedding(self) -> Float[Array, "vocab hidden"]:
        """The embedding's parameter."""
        name = "model.embed_tokens.weight"
        table: Array = self._kept("embedding", lambda: jnp.asarray(self.weights.read(name)))
        return table

    def state(self, index: int) -> nnx.State:
        """The parameters of one layer."""
        state: nnx.State = self._kept(index, lambda: layer_state(self.weights, index, self._abstract))
        return state

    def head_parameters(
        self, table: Float[Array, "vocab hidden"]
    ) -> tuple[Float[Array, " hidden"], Float[Array, "hidden vocab"]]:
        """The parameters of the last norm and of the head, which may be the embedding's."""

        def read() -> tuple[Array, Array]:
            head = table if self.arch.tied_head else self.weights.read("lm_head.weight")
            return jnp.asarray(self.weights.read("model.norm.weight")), jnp.asarray(head.T)

        norm, head = self._kept("head", read)
        return norm, head

    def embed(self, call: Call, table: Float[Array, "vocab hidden"]) -> Hidden:
        """The first stage of one call."""
        return self._embed(call.tap, "", table, call.input_ids)

    def layer(
        self, call: Call, index: int, state: nnx.State, x: Hidden, past: Past | None
    ) -> tuple[Hidden, Past | None]:
        """One layer of one call, and the layer's part of the cache with the call in it.

        Its window goes in as a value, so that layers with and without one share the compiled function.
        """
        after: tuple[Hidden, Past | None] = self._layer(
            call.tap, f"layers.{index}", state, x, call.positions, call.mask, self._windows[index], past
        )
        return after

    def head(
        self, call: Call, norm: Float[Array, " hidden"], head: Float[Array, "hidden vocab"], x: Hidden
    ) -> Logits:
        """The last stage of one call."""
        return self._head(call.tap, "", norm, head, x)


def _cut(logits: Logits, length: int) -> Logits:
    """Without padding, where there is any: every slice is a small program of its own."""
    return logits if logits.shape[1] == length else logits[:, :length]


Stages = tuple[Tapped, Tapped, Tapped]


def _stages(arch: Architecture, dtype: jnp.dtype, operations: Operations) -> Stages:
    """The functions of embedding, layer and head; with the usual arithmetic decoders share what is compiled."""
    return _usual(arch, dtype) if operations is OPERATIONS else _made(arch, dtype, operations)


@lru_cache(maxsize=8)
def _usual(arch: Architecture, dtype: jnp.dtype) -> Stages:
    return _made(arch, dtype, OPERATIONS)


def _made(arch: Architecture, dtype: jnp.dtype, operations: Operations) -> Stages:
    graph, _ = skeleton(arch, dtype)
    embed, layer = partial(_embed, operations), partial(_layer, graph, operations)
    head = partial(_head, operations, arch.rms_norm_eps)
    return Tapped(embed, KINDS), Tapped(layer, KINDS), Tapped(head, KINDS)


def _embed(ops: Operations, tap: TapFunction, table: Array, ids: Ids) -> Hidden:
    return tap("embed", ops.embed(table, ids))


def _layer(
    graph: nnx.GraphDef[DecoderLayer],
    operations: Operations,
    tap: TapFunction,
    state: nnx.State,
    x: Hidden,
    positions: Ids,
    mask: Mask,
    window: Window,
    past: Past | None,
) -> tuple[Hidden, Past | None]:
    layer: DecoderLayer = nnx.merge(graph, state)
    return layer(operations, tap, x, positions, mask, window, past)


def _head(ops: Operations, eps: float, tap: TapFunction, norm: Array, head: Array, x: Hidden) -> Array:
    return ops.head(tap("final_norm", ops.final_norm(x, norm, eps)), head, None)
