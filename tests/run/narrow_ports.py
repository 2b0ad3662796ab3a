"""Ports that compute in a narrower dtype than asked for: everywhere, with a bug, or in some operations."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS
from tests.run.ports import Wrapped, _Hiding


class _Casting(_Hiding):
    """A tap to which everything is handed over in the dtype that was asked for."""

    def __init__(self, tap, dtype):
        super().__init__(tap, "none")
        self._dtype = dtype

    def absorb(self, stage, recorded):
        super().absorb(stage, {kind: jnp.asarray(value, self._dtype) for kind, value in recorded.items()})


class Bfloat16Inside(Wrapped):
    """A Qwen2 in bfloat16 whose values are widened as they are handed over."""

    inside = jnp.bfloat16
    operations = OPERATIONS

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        port = cls(Decoder.load(checkpoint, config, cls.inside, operations=cls.operations))
        port.asked = dtype
        return port

    def forward(self, input_ids, positions, mask, cache, tap):
        logits, cache = super().forward(input_ids, positions, mask, cache, _Casting(tap, self.asked))
        return logits.astype(self.asked), cache


class Float32Inside(Bfloat16Inside):
    inside = jnp.float32


def _half_of_the_scale(q, k):
    return OPERATIONS.scores(q, k) * jnp.asarray(0.5, q.dtype)


class Bfloat16InsideWithABug(Bfloat16Inside):
    operations = replace(OPERATIONS, scores=_half_of_the_scale)


class Bfloat16AsItIs(Wrapped):
    """The same without a cast."""

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return cls(Decoder.load(checkpoint, config, jnp.bfloat16))


def _rounded(function):
    def call(*args):
        found = function(*args)
        return found.astype(jnp.bfloat16).astype(found.dtype)

    return call


class ProjectionsInBfloat16(Wrapped):
    """Some operations, not the model: norms, RoPE, attention and residuals are as wide as they should be."""

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        operations = replace(OPERATIONS, linear=_rounded(OPERATIONS.linear))
        return cls(Decoder.load(checkpoint, config, dtype, operations=operations))


def _noisy(function):
    def call(*args):
        found = function(*args)
        wave = jnp.sin(jnp.arange(found.size, dtype=found.dtype) * 12.9898).reshape(found.shape)
        return found * (1 + 3e-3 * wave)

    return call


class AsInaccurateAsBfloat16(Wrapped):
    """Errors of that size everywhere, in values that no narrower dtype holds."""

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        names = ("attn_norm", "mlp_norm", "final_norm", "linear", "rotate_q", "rotate_k", "context", "activate")
        noisy = {name: _noisy(getattr(OPERATIONS, name)) for name in names if hasattr(OPERATIONS, name)}
        return cls(Decoder.load(checkpoint, config, dtype, operations=replace(OPERATIONS, **noisy)))
