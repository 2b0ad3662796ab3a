"""KV caches: which slots the tokens of a call fill and see, and that of the built-in decoder.

It has one slot per token, and static shapes, so that one compilation serves every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from harness.architecture import Architecture
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.layout import layer_of
from harness.taps import Tap

Buffer = Float[Array, "batch slot ..."]


class Past(NamedTuple):
    """One layer's part of a cache: what is held, by kind of tap, and how many slots are filled."""

    held: Mapping[str, Buffer]
    filled: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What every layer holds, by kind of tap, and how many slots are filled. Never changed, only replaced."""

    held: tuple[Mapping[str, Buffer], ...]
    filled: Int[Array, ""]

    @classmethod
    def empty(
        cls,
        arch: Architecture,
        batch: int,
        length: int,
        dtype: jnp.dtype,
        put: Callable[[Tap, np.ndarray], Buffer] = lambda tap, value: jax.device_put(value),
    ) -> Self:
        """One without tokens.

        Args:
            put: puts what holds a tap where it belongs.
        """
        held: list[dict[str, Buffer]] = [{} for _ in range(arch.layers)]
        empty: dict[str, Buffer] = {}  # one for all layers: nothing is written in place
        for tap in taps_of(arch):
            if "slot" in tap.dims:
                if tap.kind not in empty:
                    zeros = np.zeros(tap.shape(arch.sizes(batch, length)), dtype)
                    empty[tap.kind] = put(tap, zeros)
                held[layer_of(tap.name) or 0][tap.kind] = empty[tap.kind]
        return cls(tuple(held), jnp.int32(0))

    @property
    def length(self) -> int:
        return int(next(iter(self.held[0].values())).shape[1])

    def layer(self, index: int) -> Past:
        return Past(self.held[index], self.filled)

    def with_layer(self, index: int, past: Past) -> Cache:
        return replace(self, held=(*self.held[:index], past.held, *self.held[index + 1 :]))

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
        expected = f"at most {self.length - int(self.filled)} more of {self.length}"
        hint = "init_cache(batch, length, dtype): `length` counts the prompt and all tokens after it"
        raise PortError("the KV cache has no room for these tokens", "cache", expected, tokens, hint=hint)


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
