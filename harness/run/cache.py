"""The built-in decoder's KV cache: one slot per token, static shapes, so one compilation serves every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from harness.architecture import Architecture
from harness.errors import PortError

Buffer = Float[Array, "batch slot kv_head head_dim"]


class Past(NamedTuple):
    """One layer's part of a cache: keys after RoPE, values, and how many slots are filled."""

    k: Buffer
    v: Buffer
    filled: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, and how many slots are filled. It is never changed, only replaced."""

    k: tuple[Buffer, ...]
    v: tuple[Buffer, ...]
    filled: Int[Array, ""]

    @classmethod
    def empty(
        cls,
        arch: Architecture,
        batch: int,
        length: int,
        dtype: jnp.dtype,
        sharding: jax.sharding.Sharding | None = None,
    ) -> Self:
        shape = (batch, length, arch.kv_heads, arch.head_dim)
        buffers = tuple(jax.device_put(np.zeros(shape, dtype), sharding) for _ in range(arch.layers))
        return cls(buffers, buffers, jnp.int32(0))

    @property
    def length(self) -> int:
        return int(self.k[0].shape[1])

    def layer(self, index: int) -> Past:
        return Past(self.k[index], self.v[index], self.filled)

    def with_layer(self, index: int, past: Past) -> Cache:
        k, v = list(self.k), list(self.v)
        k[index], v[index] = past.k, past.v
        return replace(self, k=tuple(k), v=tuple(v))

    def advanced(self, tokens: int) -> Cache:
        """The cache with so many more slots filled."""
        return replace(self, filled=self.filled + tokens)

    def check_room(self, tokens: int) -> None:
        """Refuse tokens that do not fit, where it is known how many slots are filled (it is not inside a jit).

        Raises:
            PortError: JAX would write them over what is there.
        """
        if isinstance(self.filled, jax.core.Tracer) or int(self.filled) + tokens <= self.length:
            return
        raise PortError(
            "the KV cache has no room for these tokens",
            where="cache",
            expected=f"at most {self.length - int(self.filled)} more of {self.length}",
            found=tokens,
            hint="init_cache(batch, length, dtype): `length` counts the prompt and all tokens after it",
        )
