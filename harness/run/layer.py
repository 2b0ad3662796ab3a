"""One layer of the built-in decoder, as Flax (nnx) modules: they hold parameters, and are given the operations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int

from harness.architecture import Architecture
from harness.run.cache import Past
from harness.run.operations import Heads, Hidden, Operations
from harness.run.tapping import TapFunction

Ids = Int[Array, "batch position"]
Mask = Bool[Array, "batch key"]
Window = Int[Array, ""]


class Projection(nnx.Module):
    """A matrix and, where the architecture has one, a bias."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: jnp.dtype) -> None:
        self.kernel = nnx.Param(jax.ShapeDtypeStruct((inputs, outputs), dtype))
        self.bias = nnx.Param(jax.ShapeDtypeStruct((outputs,), dtype)) if bias else None


class Attention(nnx.Module):
    """Grouped-query attention with RoPE."""

    def __init__(self, arch: Architecture, dtype: jnp.dtype) -> None:
        self.arch = arch
        q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        self.q = Projection(arch.hidden, q, bias=True, dtype=dtype)
        self.k = Projection(arch.hidden, kv, bias=True, dtype=dtype)
        self.v = Projection(arch.hidden, kv, bias=True, dtype=dtype)
        self.o = Projection(q, arch.hidden, bias=False, dtype=dtype)

    def __call__(
        self,
        ops: Operations,
        tap: TapFunction,
        x: Hidden,
        positions: Ids,
        mask: Mask,
        window: Window,
        past: Past | None,
    ) -> tuple[Hidden, Past | None]:
        arch = self.arch
        q = tap("q", self._heads(ops, self.q, x, arch.heads))
        k = tap("k", self._heads(ops, self.k, x, arch.kv_heads))
        v = tap("v", self._heads(ops, self.v, x, arch.kv_heads))
        frequencies = ops.inverse_frequencies(arch.rope_theta, arch.head_dim)
        angles = ops.rope_angles(positions, frequencies, x.dtype)
        q = tap("q_rope", ops.rotate_q(q, angles))
        k = tap("k_rope", ops.rotate_k(k, angles))
        slots, groups = np.arange(x.shape[1], dtype=np.int32), arch.heads // arch.kv_heads
        if past is not None:
            k = tap("cache_k", ops.write_k(past.k, k, past.filled))
            v = tap("cache_v", ops.write_v(past.v, v, past.filled))
            slots = slots + past.filled
            past = Past(k, v, past.filled)
        scores = ops.scores(q, ops.repeat_k(k, groups))
        probs = tap("probs", ops.probabilities(scores, ops.allowed(mask, slots, window)))
        context = tap("context", ops.context(probs, ops.repeat_v(v, groups)))
        merged = context.reshape(*context.shape[:2], -1)
        return tap("attn_out", _apply(ops, self.o, merged)), past

    def _heads(self, ops: Operations, projection: Projection, x: Hidden, heads: int) -> Heads:
        y = _apply(ops, projection, x)
        return y.reshape(*y.shape[:2], heads, self.arch.head_dim)


class Mlp(nnx.Module):
    """SwiGLU."""

    def __init__(self, arch: Architecture, dtype: jnp.dtype) -> None:
        self.gate = Projection(arch.hidden, arch.intermediate, bias=False, dtype=dtype)
        self.up = Projection(arch.hidden, arch.intermediate, bias=False, dtype=dtype)
        self.down = Projection(arch.intermediate, arch.hidden, bias=False, dtype=dtype)

    def __call__(self, ops: Operations, tap: TapFunction, x: Hidden) -> Hidden:
        gate = tap("gate", _apply(ops, self.gate, x))
        up = tap("up", _apply(ops, self.up, x))
        return tap("mlp_out", _apply(ops, self.down, tap("act", ops.gated(gate, up))))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, arch: Architecture, dtype: jnp.dtype) -> None:
        self.arch = arch
        self.attn_norm = nnx.Param(jax.ShapeDtypeStruct((arch.hidden,), dtype))
        self.attn = Attention(arch, dtype)
        self.mlp_norm = nnx.Param(jax.ShapeDtypeStruct((arch.hidden,), dtype))
        self.mlp = Mlp(arch, dtype)

    def __call__(
        self,
        ops: Operations,
        tap: TapFunction,
        x: Hidden,
        positions: Ids,
        mask: Mask,
        window: Window,
        past: Past | None,
    ) -> tuple[Hidden, Past | None]:
        eps = self.arch.rms_norm_eps
        normed = tap("attn_norm", ops.attn_norm(x, self.attn_norm[...], eps))
        update, past = self.attn(ops, tap, normed, positions, mask, window, past)
        x = tap("resid_mid", ops.attn_residual(x, update))
        normed = tap("mlp_norm", ops.mlp_norm(x, self.mlp_norm[...], eps))
        return tap("resid_post", ops.mlp_residual(x, self.mlp(ops, tap, normed))), past


@functools.lru_cache(maxsize=16)
def skeleton(arch: Architecture, dtype: jnp.dtype) -> tuple[nnx.GraphDef[DecoderLayer], nnx.State]:
    """A layer's structure, and its parameters' shapes: none ever has an initial value that a load could leave."""
    graph, abstract = nnx.split(DecoderLayer(arch, dtype))
    return graph, abstract


def _apply(ops: Operations, projection: Projection, x: Array) -> Array:
    bias = None if projection.bias is None else projection.bias[...]
    return ops.linear(x, projection.kernel[...], bias)
