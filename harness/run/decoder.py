"""The project's own port: a Flax (nnx) decoder of every family that is known, driven by the checkpoint's config.

It is the example of a port, the subject of the embedded golden, and the body in which bugs are planted: every
operation can be replaced (`Decoder.load(..., operations=replace(OPERATIONS, scores=mine))`).

It works layer-major. One layer's weights are in memory at a time, and one compiled function serves all layers.
In a check, inputs are padded on the right to a few lengths, so that it serves prompts of many lengths as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import open_checkpoint
from harness.families import family_named
from harness.run.arithmetic import operations_of
from harness.run.behind import Backlog, ReadingAhead, one_thread
from harness.run.cache import Cache, Past
from harness.run.devices import Spread
from harness.run.layer import Ids, Mask, places
from harness.run.operations import Hidden, Operations
from harness.run.padding import at_few_lengths, is_small, is_tracing
from harness.run.port import Call
from harness.run.stages import Embedding, Pair, Stages, head_parts, is_large, looked_up, stages, within
from harness.run.tapping import TapFunction, is_session, no_tap, whole
from harness.run.weights import AsStored, Kept, Named, Weights, ZeroWeights, skeleton

Logits = Float[Array, "batch position vocab"]
LARGE_LAYER = 16 * 2**20  # bytes


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
        self._named = Named(weights, family_named(arch.family), arch, self._spread)
        self._places = places(arch, self.ops)
        self._abstract = [skeleton(arch, weights.dtype, arch.is_sparse(n)) for n in range(arch.layers)]
        self._kept = Kept()
        self._quick = stages(arch, self.ops, quick=True)
        self._well = stages(arch, self.ops, quick=False)

    also = ("expert_out",)

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
        return Cache.empty(self.arch, batch, length, dtype, self._spread.cache)

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
        # Several processes gather what they compare: nothing else is to be under way on their devices then.
        replayed = any(getattr(call.tap, "replaying", False) for calls in sequences for call in calls)
        large, wide = self._is_large(), self.weights.dtype == np.float64
        with one_thread() as reading, one_thread() as comparing:
            backlog = Backlog(1 if self._spread.mesh is None else 0, not replayed, comparing if large else None)
            inputs = [
                [backlog.call(self._spread.call(call)) for call in calls]
                for calls in at_few_lengths(self.arch, sequences)
            ]
            flat, ahead = [call for calls in inputs for call in calls], ReadingAhead(reading, wide)
            hidden = self._embedded(flat)
            self._go_through_layers(inputs, hidden, caches, ahead if large else None)
            logits = iter(self._logits(flat, hidden, ahead))
            backlog.finish()
        results = []
        for calls, cache in zip(sequences, caches, strict=True):
            after = cache and cache.advanced(sum(call.input_ids.shape[1] for call in calls))
            results.append([(_cut(next(logits), call.input_ids.shape[1]), after) for call in calls])
        return results

    def _go_through_layers(
        self,
        inputs: Sequence[Sequence[Call]],
        hidden: list[Hidden],
        caches: list[Cache | None],
        ahead: ReadingAhead | None,
    ) -> None:
        """What leaves the last layer, of all calls in their order, and the caches take the place of the given."""
        layers = range(self.arch.layers)
        states: Iterator[nnx.State | AsStored] = map(self.state, layers)
        if ahead is not None:
            states = ahead.each([partial(self._stored, n) for n in layers])
        for index in layers:
            state, places = next(states), iter(range(len(hidden)))
            for row, (calls, cache) in enumerate(zip(inputs, caches, strict=True)):
                if ahead is not None:
                    following, at = (row + 1, index) if row + 1 < len(inputs) else (0, index + 1)
                    ahead.expect(inputs[following][:1], f"layers.{at}" if at < self.arch.layers else "head")
                past = None if cache is None else cache.layer(index)
                for call, n in zip(calls, places, strict=False):
                    hidden[n], past = self.layer(call, index, state, hidden[n], past)
                    past = None if past is None else past._replace(filled=past.filled + hidden[n].shape[1])
                if cache is not None and past is not None:
                    caches[row] = cache.with_layer(index, past)
            del state  # before the next but one's weights are read

    def _is_large(self) -> bool:
        """Whether layers are so large that it pays to read and to compare in other threads."""
        numbers = max(sum(math.prod(x.shape) for x in jax.tree.leaves(layer)) for layer in self._abstract)
        large = numbers * jnp.dtype(self.weights.dtype).itemsize > LARGE_LAYER
        return large and self._spread.mesh is None and not is_tracing()

    def _stored(self, index: int) -> AsStored:
        return AsStored(self._named.layer(index, self._abstract[index], turned=False))

    def _embedded(self, calls: Sequence[Call]) -> list[Hidden]:
        """The first stage of all calls."""
        if not self._in_parts():
            embedding = self.embedding()
            return [self.embed(call, embedding) for call in calls]
        rows = looked_up(calls)
        embedding = Embedding(self._named.rows("embed", rows), self._learned_positions())
        return [self.embed(replace(call, input_ids=within(rows, call)), embedding) for call in calls]

    def _logits(
        self, calls: Sequence[Call], hidden: Sequence[Hidden], ahead: ReadingAhead
    ) -> Sequence[Logits | np.ndarray]:
        """The last stage of all calls."""
        if not self._in_parts():
            of_norm, of_head = self.head_parameters(self.embedding())
            return [self.head(call, of_norm, of_head, x) for call, x in zip(calls, hidden, strict=True)]
        of_norm, dtype = self._norm_parameters(), self.weights.dtype
        normed = [self._for(call).norm(call.tap, "", of_norm, x) for call, x in zip(calls, hidden, strict=True)]
        logits = [np.empty((*x.shape[:2], self.arch.vocab), dtype) for x in normed]
        for rows, of_head in ahead.each(head_parts(self._named, self.arch, dtype)):
            for call, x, out in zip(calls, normed, logits, strict=True):
                out[..., rows] = self._for(call).part(no_tap, "", of_head, x)
        return logits

    def _in_parts(self) -> bool:
        """Whether embedding and head are read in parts: they are large, and what is done with them is known."""
        usual = self.ops is operations_of(self.arch) and self._spread.mesh is None
        return usual and is_large(self.arch, self.weights.dtype) and not is_tracing()

    def embedding(self) -> Embedding:
        """The embedding's parameters."""
        return self._kept("embedding", lambda: Embedding(self._named.model("embed"), self._learned_positions()))

    def state(self, index: int, known: nnx.State | None = None) -> nnx.State:
        """The parameters of one layer.

        Args:
            known: those of the checkpoint as it is, where another decoder has read them.
        """
        return self._kept(index, lambda: self._named.layer(index, self._abstract[index], known=known))

    def head_parameters(self, embedding: Embedding) -> tuple[Pair, Pair]:
        """Weight and bias of the last norm and of the head, which may be the embedding's."""

        def read() -> tuple[Pair, Pair]:
            model = self._named.model
            head = embedding.table if self.arch.tied_head else model("logits")
            bias = model("logits", "bias") if "logits" in self.arch.biases else None
            return self._norm_parameters(), (head.T, bias)

        return self._kept("head", read)

    def _norm_parameters(self) -> Pair:
        model = self._named.model
        return model("final_norm"), model("final_norm", "bias") if self.arch.norm.bias else None

    def _learned_positions(self) -> Array | None:
        return self._named.model("positions") if self.arch.learned_positions else None

    def embed(self, call: Call, embedding: Embedding) -> Hidden:
        """The first stage of one call."""
        return self._for(call).embed(call.tap, "", embedding, call.input_ids, call.positions)

    def layer(
        self, call: Call, index: int, state: nnx.State | AsStored, x: Hidden, past: Past | None
    ) -> tuple[Hidden, Past | None]:
        """One layer of one call, and the layer's part of the cache with the call in it."""
        own = self._for(call)
        after: tuple[Hidden, Past | None] = (own.sparse if self.arch.is_sparse(index) else own.layer)(
            call.tap, f"layers.{index}", state, x, call.positions, call.mask, self._places[index], past
        )
        return after

    def head(self, call: Call, of_norm: Pair, of_head: Pair, x: Hidden) -> Logits:
        """The last stage of one call."""
        return self._for(call).head(call.tap, "", of_norm, of_head, x)

    def _for(self, call: Call) -> Stages:
        compiled = call.tap is no_tap or is_session(call.tap)
        return self._quick if compiled and is_small(self.arch, call) else self._well


def _cut(logits: Logits, length: int) -> Logits:
    """Without padding, where there is any: outside of JAX, in which every slice is a small program of its own."""
    if logits.shape[1] == length:
        return logits
    if isinstance(logits, Tracer | np.ndarray):
        return logits[:, :length]
    return jax.device_put(whole(logits)[:, :length])  # who wraps this port is given an array of JAX
