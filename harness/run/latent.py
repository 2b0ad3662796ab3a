"""Latent attention of the built-in decoder: keys and values of all heads are made of what is cached of a token.

They are made anew in every call, of all slots, as in transformers; those of the call's own tokens are a tap.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from harness.families.options import Latent
from harness.run.cache import Past
from harness.run.layer import Layer
from harness.run.operations import Hidden
from harness.run.tapping import TapFunction

Expanded = Float[Array, "batch slot head kv_dim"]


def latent_attention(layer: Layer, mla: Latent, x: Hidden, past: Past | None) -> tuple[Hidden, Past | None]:
    """What attention adds to the residual stream, and the cache with this call in it."""
    ops, tap, linear, turning = layer.ops, layer.tap, layer.linear, layer.turning(x.dtype)
    queries, heads = x, layer.arch.heads
    if mla.q_rank is not None:
        queries = tap(
            "q_latent_norm", layer.norm("q_latent_norm", tap("q_latent", linear("q_latent", x)), mla.norm)
        )
    q = tap("q", ops.split_heads(linear("q", queries), heads))
    unnormed, unturned = tap("kv_latent", linear("kv_latent", x)), tap("k_pe", linear("k_pe", x))
    latent = tap("kv_latent_norm", layer.norm("kv_latent_norm", unnormed, mla.norm))
    q = tap("q_rope", ops.grow_q(turning(ops.rotate_q)(q), layer.positions))
    turned = ops.grow_k(turning(ops.rotate_k)(unturned[:, :, None]), layer.positions)
    shared = tap("k_pe_rope", turned[:, :, 0])  # one head, and none
    if past is not None:
        latent, shared = ops.kept_of_tokens(unnormed, latent, unturned, shared)
        latent = tap("cache_latent", ops.write_latent(past.held["cache_latent"], latent, past.filled))
        shared = tap("cache_k_pe", ops.write_k_pe(past.held["cache_k_pe"], shared, past.filled))
        past = Past({"cache_latent": latent, "cache_k_pe": shared}, past.filled)
    kv = _tapped(tap, ops.split_heads(linear("kv", latent), heads), x.shape[1], past)
    k, v = ops.split_kv(kv, mla.nope)
    scores = ops.score_cap(ops.scores(q, ops.join_key(k, shared)))
    probs = tap("probs", ops.probabilities(scores, layer.allowed(x.shape[1], past)))
    context = tap("context", ops.context(probs, v))
    return tap("attn_out", linear("attn_out", ops.join_heads(context))), past


def _tapped(tap: TapFunction, kv: Expanded, length: int, past: Past | None) -> Expanded:
    """Keys and values of all slots, of which those of the call's own tokens are a tap."""
    if past is None:
        return tap("kv", kv)
    mine = tap("kv", jax.lax.dynamic_slice_in_dim(kv, past.filled, length, axis=1))
    return jax.lax.dynamic_update_slice_in_dim(kv, mine, past.filled, axis=1)


def split_kv(
    kv: Expanded, nope: int
) -> tuple[Float[Array, "batch slot head nope"], Float[Array, "batch slot head value_dim"]]:
    """Of what latent attention makes of a latent: the part of keys that is not turned, and the values."""
    return kv[..., :nope], kv[..., nope:]


def join_key(
    k: Float[Array, "batch slot head nope"], shared: Float[Array, "batch slot rope_dim"]
) -> Float[Array, "batch slot head qk_dim"]:
    """Keys of latent attention: each head's own part, and behind it the turned one, the same in all heads."""
    turned = jnp.broadcast_to(shared[:, :, None], (*k.shape[:3], shared.shape[-1]))
    return jnp.concatenate([k, turned], axis=-1)
