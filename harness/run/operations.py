"""The operations of a decoder, each a pure function that can be replaced by itself.

`Operations` is the decoder's whole arithmetic: `dataclasses.replace(OPERATIONS, scores=mine)` is another decoder.
Formulas follow transformers: sums of squares, softmax and rotation angles in at least float32, all else in the
dtype of the activations; what a model's options say otherwise is in `arithmetic.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from harness.families.frequencies import inverse_frequencies, scaled

Hidden = Float[Array, "batch position hidden"]
Heads = Float[Array, "batch position head head_dim"]
KeyValues = Float[Array, "batch slot kv_head head_dim"]
Probs = Float[Array, "batch head position key"]
Angles = Float[Array, "batch position half"]
NO_WINDOW = 1 << 30  # more slots than any cache has: it hides no key, and int32 can count past it


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype for sums: float32, or float64 where the activations are."""
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")


def embed(table: Float[Array, "vocab hidden"], ids: Int[Array, "batch position"]) -> Hidden:
    """Rows of the table. An id outside it is refused before the run: JAX would clamp it."""
    return table[ids]


def rms_norm(x: Hidden, weight: Float[Array, " hidden"], eps: float) -> Hidden:
    """weight * (x / sqrt(mean(x^2) + eps)): normalized wide, then cast, then weighted (Zhang & Sennrich 2019)."""
    y = x.astype(wide(x.dtype))
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return aligned(weight, y) * y.astype(x.dtype)


def aligned(weight: Float[Array, "..."], values: Float[Array, "..."]) -> Float[Array, "..."]:
    """The weight along the last dimensions of the values, with as many: ranks are promoted nowhere by accident."""
    return jnp.expand_dims(weight, range(values.ndim - weight.ndim))


def linear(
    x: Float[Array, "... inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"] | None,
) -> Float[Array, "... outputs"]:
    """x @ kernel + bias; the kernel is the checkpoint's weight, transposed.

    The product is rounded once, also where its sum is split over devices: each has a part of it, wide.
    """
    y = jnp.matmul(x, kernel, preferred_element_type=wide(x.dtype)).astype(x.dtype)
    return y if bias is None else y + aligned(bias, y)


def rope_angles(
    positions: Int[Array, "batch position"], frequencies: Float[np.ndarray, " half"], dtype: jnp.dtype
) -> Angles:
    """position * frequency, wide: bfloat16 cannot count beyond 256."""
    return positions[..., None].astype(wide(dtype)) * jnp.asarray(frequencies, wide(dtype))[None, None]


def rotate(x: Heads, angles: Angles) -> Heads:
    """RoPE on pairs (i, i + head_dim / 2), the half-split layout of Hugging Face checkpoints."""
    cos = jnp.cos(angles).astype(x.dtype)[:, :, None]
    sin = jnp.sin(angles).astype(x.dtype)[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def split_heads(x: Hidden, heads: int) -> Heads:
    """Neighbouring numbers are of one head."""
    return x.reshape(*x.shape[:2], heads, -1)


def join_heads(x: Heads) -> Hidden:
    """All heads of a token, one after the other."""
    return x.reshape(*x.shape[:2], -1)


def repeat_kv(
    x: Float[Array, "batch position kv_head head_dim"], groups: int
) -> Float[Array, "batch position head head_dim"]:
    """Each KV head serves `groups` neighbouring query heads: [k0, k0, k1, k1], not [k0, k1, k0, k1]."""
    return jnp.repeat(x, groups, axis=2)


def scores(q: Heads, k: Heads) -> Probs:
    """q . k / sqrt(head_dim)."""
    return jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5


def allowed(
    mask: Bool[Array, "batch key"], slots: Int[Array, " position"], window: Int[Array, ""]
) -> Bool[Array, "batch 1 position key"]:
    """Which key a query may see: none after itself, none before its window, and no padding.

    Args:
        mask: False at padding, and where a cache is not filled.
        slots: which of the keys is the query's own.
        window: of the layer, how many slots it sees at most, its own included; `NO_WINDOW` where it has none. It
            is a value and not a constant of the program, so that one compiled layer serves all.
    """
    query, key = slots[:, None], jnp.arange(mask.shape[1], dtype=slots.dtype)[None, :]
    near = (key <= query) & (key > query - window)
    return near[None, None] & mask[:, None, None, :]


def write(buffer: KeyValues, new: KeyValues, start: Int[Array, ""]) -> KeyValues:
    """A cache with this call's keys or values from slot `start` on. It is refused before the run where there is no
    room: JAX would clamp `start`, and overwrite what is there."""
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, start, axis=1)


def probabilities(
    scores: Probs, allowed: Bool[Array, "batch 1 position key"], sinks: Float[Array, " head"] | None = None
) -> Probs:
    """Masked softmax, wide, then cast. The finite minimum keeps a fully masked row from becoming NaN.

    Args:
        sinks: a score of every head's own, of which the probability goes to no key.
    """
    y = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min).astype(wide(scores.dtype))
    if sinks is None:
        return jax.nn.softmax(y, axis=-1).astype(scores.dtype)
    own = jnp.broadcast_to(sinks[:, None, None].astype(y.dtype), (*y.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([y, own], axis=-1), axis=-1)[..., :-1].astype(scores.dtype)


def context(probs: Probs, v: Heads) -> Heads:
    """The probabilities' mean of the values."""
    return jnp.einsum("bhqk,bkhd->bqhd", probs, v)


def gated(gate: Hidden, up: Hidden) -> Hidden:
    """silu(gate) * up (Shazeer 2020, SwiGLU)."""
    return jax.nn.silu(gate) * up


def activated(up: Hidden) -> Hidden:
    """silu(up): of an MLP without a gate."""
    return jax.nn.silu(up)


def residual(x: Hidden, update: Hidden) -> Hidden:
    return x + update


def parallel_residual(x: Hidden, attention: Hidden, mlp: Hidden) -> Hidden:
    return x + attention + mlp


def unchanged(x: Array) -> Array:
    """A factor, a cap that this decoder does not have."""
    return x


def unused(*arrays: Array) -> Any:
    """An operation that this decoder does not have."""
    raise NotImplementedError


def not_grown(q: Heads, positions: Int[Array, "batch position"]) -> Heads:
    """Queries that are as long at every position."""
    return q


def norm_heads(x: Heads, norm: Callable[..., Array], *weights: Array | None) -> Heads:
    """Queries or keys, normed head by head."""
    return norm(x, *weights)


def norm_then_turn(x: Heads, norm: Callable[[Heads], Heads], turn: Callable[[Heads], Heads]) -> Heads:
    """Queries or keys as attention is given them."""
    return turn(norm(x))


def not_normed(x: Hidden, norm: Callable[[Hidden], Hidden]) -> Hidden:
    """What has no norm at this place; `norm` is what its block has at another."""
    return x


def carried(x: Hidden, read: Hidden) -> Hidden:
    """The residual stream that an update is added to, of which the block has read `read`."""
    return x


def read_beside(x: Hidden, update: Hidden, norm: Callable[[Hidden], Hidden], normed: Hidden | None) -> Hidden:
    """What an MLP beside attention reads: what attention has read, or a norm of its own of the same.

    Args:
        update: what attention makes of it, which the MLP does not see.
        normed: what attention has read, where the two share a norm.
    """
    return norm(x) if normed is None else normed


def kept_of_tokens(latent: Array, normed: Array, shared: Array, turned: Array) -> tuple[Array, Array]:
    """What goes into a cache of latents: the normed ones, and the turned part of keys, [batch, position, ...]."""
    return normed, turned


def add_positions(
    x: Hidden, table: Float[Array, "rows hidden"], positions: Int[Array, "batch position"]
) -> Hidden:
    """Rows of a table of positions, added. A position outside it is refused before the run: JAX would clamp it."""
    return x + table[positions]


@dataclass(frozen=True)
class Operations:
    """One function for every operation of the decoder. Norms and residuals at each place are their own.

    Those of `WIRING` are given operations, and say in which order they are done, or with what.
    """

    embed: Callable[..., Array] = embed
    embed_scale: Callable[..., Array] = unchanged
    add_positions: Callable[..., Array] = add_positions
    attn_norm: Callable[..., Array] = rms_norm
    linear: Callable[..., Array] = linear
    inverse_frequencies: Callable[..., np.ndarray] = inverse_frequencies
    scaled_frequencies: Callable[..., tuple[np.ndarray, float]] = scaled
    rope_angles: Callable[..., Array] = rope_angles
    split_heads: Callable[..., Array] = split_heads
    join_heads: Callable[..., Array] = join_heads
    norm_heads: Callable[..., Array] = norm_heads
    norm_then_turn: Callable[..., Array] = norm_then_turn
    q_norm: Callable[..., Array] = rms_norm
    k_norm: Callable[..., Array] = rms_norm
    rotate_q: Callable[..., Array] = rotate
    rotate_k: Callable[..., Array] = rotate
    grow_q: Callable[..., Array] = not_grown
    grow_k: Callable[..., Array] = not_grown
    repeat_k: Callable[..., Array] = repeat_kv
    repeat_v: Callable[..., Array] = repeat_kv
    scores: Callable[..., Array] = scores
    score_cap: Callable[..., Array] = unchanged
    write_k: Callable[..., Array] = write
    write_v: Callable[..., Array] = write
    q_latent_norm: Callable[..., Array] = rms_norm
    kv_latent_norm: Callable[..., Array] = rms_norm
    kept_of_tokens: Callable[..., tuple[Array, Array]] = kept_of_tokens
    write_latent: Callable[..., Array] = write
    write_k_pe: Callable[..., Array] = write
    split_kv: Callable[..., tuple[Array, Array]] = unused
    join_key: Callable[..., Array] = unused
    allowed: Callable[..., Array] = allowed
    probabilities: Callable[..., Array] = probabilities
    context: Callable[..., Array] = context
    read_unnormed: Callable[..., Array] = not_normed
    added_unnormed: Callable[..., Array] = not_normed
    attn_post_norm: Callable[..., Array] = rms_norm
    residual_scale: Callable[..., Array] = unchanged
    carried: Callable[..., Array] = carried
    attn_residual: Callable[..., Array] = residual
    left_unnormed: Callable[..., Array] = not_normed
    read_beside: Callable[..., Array] = read_beside
    mlp_norm: Callable[..., Array] = rms_norm
    router: Callable[..., Array] = unused
    corrected: Callable[..., Array] = unused
    in_groups: Callable[..., Array] = unused
    choose: Callable[..., Array] = unused
    weigh: Callable[..., Array] = unused
    renormed: Callable[..., Array] = unused
    routing_scale: Callable[..., Array] = unused
    dense: Callable[..., Array] = unused
    expert_act: Callable[..., Array] = gated
    experts_out: Callable[..., Array] = unused
    shared_act: Callable[..., Array] = gated
    gated_shared: Callable[..., Array] = unused
    experts_sum: Callable[..., Array] = unused
    gated: Callable[..., Array] = gated
    activated: Callable[..., Array] = activated
    mlp_post_norm: Callable[..., Array] = rms_norm
    mlp_residual: Callable[..., Array] = residual
    parallel_residual: Callable[..., Array] = parallel_residual
    final_norm: Callable[..., Array] = rms_norm
    head: Callable[..., Array] = linear
    logit_scale: Callable[..., Array] = unchanged
    logit_cap: Callable[..., Array] = unchanged


OPERATIONS = Operations()
WIRING = frozenset(
    {"norm_heads", "norm_then_turn", "read_unnormed", "added_unnormed", "carried", "left_unnormed", "read_beside"}
)
