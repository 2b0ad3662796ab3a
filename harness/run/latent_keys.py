"""Keys and values of latent attention: what is kept of a token, taken apart, and put together."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Latent = Float[Array, "batch position kv_rank"]
Shared = Float[Array, "batch position rope_dim"]


def kept_of_tokens(latent: Latent, normed: Latent, shared: Shared, turned: Shared) -> tuple[Latent, Shared]:
    """What goes into a cache of this call's tokens: the normed latent, and the turned part of their keys."""
    return normed, turned


def split_kv(
    kv: Float[Array, "batch slot head kv_dim"], nope: int
) -> tuple[Float[Array, "batch slot head nope"], Float[Array, "batch slot head value_dim"]]:
    """Of what latent attention makes of a latent: the part of keys that is not turned, and the values."""
    return kv[..., :nope], kv[..., nope:]


def join_key(
    k: Float[Array, "batch slot head nope"], shared: Float[Array, "batch slot rope_dim"]
) -> Float[Array, "batch slot head qk_dim"]:
    """Keys of latent attention: each head's own part, and behind it the turned one, the same in all heads."""
    turned = jnp.broadcast_to(shared[:, :, None], (*k.shape[:3], shared.shape[-1]))
    return jnp.concatenate([k, turned], axis=-1)
