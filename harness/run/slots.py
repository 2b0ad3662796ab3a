"""Which slots of a cache the tokens of a call fill, and which they see, from the mask that a port is given."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def first_slot(mask: Bool[Array, "batch slot"], tokens: int) -> Int[Array, ""]:
    """The slot of a call's first token; 0 where there is no cache.

    It is of JAX's default integer type, which in a float64 check has 64 bits, as Python's numbers have there: an
    index such as `(0, first, 0, 0)` has to be of one type.

    Args:
        mask: as a port is given it: True up to the call's last token.
        tokens: how many the call has.
    """
    ends = jnp.arange(1, mask.shape[1] + 1)
    return jnp.maximum(jnp.max(jnp.where(mask.any(axis=0), ends, 0)) - tokens, 0)


def causal(mask: Bool[Array, "batch slot"], tokens: int) -> Bool[Array, "batch position slot"]:
    """Which slots each token of a call sees: its own and all before, without padding; with a cache and without."""
    own = first_slot(mask, tokens) + jnp.arange(tokens)
    return (jnp.arange(mask.shape[1])[None] <= own[:, None])[None] & mask[:, None, :]
