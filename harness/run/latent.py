"""Latent attention of the built-in decoder: keys and values of all heads are made of what is cached of a token.

They are made anew in every call, of all slots, as in transformers; those of the call's own tokens are a tap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from harness.families.options import Latent
from harness.run.cache import Past
from harness.run.operations import Heads, Hidden, Operations
from harness.run.tapping import TapFunction

Expanded = Float[Array, "batch slot head kv_dim"]


class Own(NamedTuple):
    """What latent attention does with the parameters of its layer, and where its tokens stand.

    Attributes:
        linear, norm: of a kind of tap, what its projection or its norm makes of an array.
        turn_q, turn_k: RoPE, of [batch, position, head, head_dim].
        allowed: from the slots of the call's tokens, which key a query may see.
    """

    linear: Callable[[str, Array], Array]
    norm: Callable[[str, Array], Array]
    turn_q: Callable[[Heads], Heads]
    turn_k: Callable[[Heads], Heads]
    allowed: Callable[[Int[Array, " position"]], Bool[Array, "batch 1 position key"]]


def latent_attention(
    mla: Latent, ops: Operations, tap: TapFunction, own: Own, x: Hidden, heads: int, past: Past | None
) -> tuple[Hidden, Past | None]:
    """What attention adds to the residual stream, and the cache with this call in it."""
    queries = x
    if mla.q_rank is not None:
        queries = tap("q_latent_norm", own.norm("q_latent_norm", tap("q_latent", own.linear("q_latent", x))))
    q = tap("q", ops.split_heads(own.linear("q", queries), heads))
    unnormed, unturned = tap("kv_latent", own.linear("kv_latent", x)), tap("k_pe", own.linear("k_pe", x))
    latent = tap("kv_latent_norm", own.norm("kv_latent_norm", unnormed))
    q = tap("q_rope", own.turn_q(q))
    shared = tap("k_pe_rope", own.turn_k(unturned[:, :, None])[:, :, 0])  # one head, and none
    slots = np.arange(x.shape[1], dtype=np.int32)
    if past is not None:
        latent, shared = ops.kept_of_tokens(unnormed, latent, unturned, shared)
        latent = tap("cache_latent", ops.write_latent(past.held["cache_latent"], latent, past.filled))
        shared = tap("cache_k_pe", ops.write_k_pe(past.held["cache_k_pe"], shared, past.filled))
        slots = slots + past.filled
        past = Past({"cache_latent": latent, "cache_k_pe": shared}, past.filled)
    kv = _tapped(tap, ops.split_heads(own.linear("kv", latent), heads), x.shape[1], past)
    k, v = ops.split_kv(kv, mla.nope)
    scores = ops.score_cap(ops.scores(q, ops.join_key(k, shared)))
    probs = tap("probs", ops.probabilities(scores, own.allowed(slots)))
    context = tap("context", ops.context(probs, v))
    return tap("attn_out", own.linear("attn_out", ops.join_heads(context))), past


def _tapped(tap: TapFunction, kv: Expanded, length: int, past: Past | None) -> Expanded:
    """Keys and values of all slots, of which those of the call's own tokens are a tap."""
    if past is None:
        return tap("kv", kv)
    mine = tap("kv", jax.lax.dynamic_slice_in_dim(kv, past.filled, length, axis=1))
    return jax.lax.dynamic_update_slice_in_dim(kv, mine, past.filled, axis=1)
