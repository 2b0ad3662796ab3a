"""A layer of the built-in decoder in one call: its place, its parameters and what is done with each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from harness.families.frequencies import both, is_beyond
from harness.families.options import Architecture, Norm, Rope
from harness.run.cache import Past
from harness.run.operations import NO_WINDOW, Heads, Operations
from harness.run.tapping import TapFunction
from harness.run.weights import arrays_of

Ids = Int[Array, "batch position"]
Mask = Bool[Array, "batch key"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Place:
    """What a layer has of its own besides parameters. All are values, so that one compiled layer serves all.

    Attributes:
        window: how many slots it sees at most; `NO_WINDOW` where it has none.
        frequencies: of RoPE, float64; zeros where it turns nothing; None where no layer does; two tables of
            LongRoPE.
        factor: on its cosines and sines; None where every layer's is 1.
    """

    window: Int[Array, ""]
    frequencies: Float[Array, " half"] | None
    factor: Float[Array, ""] | None


def places(arch: Architecture, ops: Operations) -> list[Place]:
    """The place of every layer."""
    turned = next((rope for rope in arch.ropes if rope), None)
    by_layer = []
    for window, rope in zip(arch.windows, arch.ropes, strict=True):
        speeds, factor = _speeds(rope or turned, ops) if turned else (None, 1.0)
        if rope is None and speeds is not None:
            speeds, factor = np.zeros_like(speeds), 1.0
        by_layer.append((np.int32(min(window or NO_WINDOW, NO_WINDOW)), speeds, np.float64(factor)))
    plain = all(factor == 1.0 for *_, factor in by_layer)
    return [Place(window, speeds, None if plain else factor) for window, speeds, factor in by_layer]


def _speeds(rope: Rope, ops: Operations) -> tuple[np.ndarray, float]:
    """Frequencies, [half] or two tables of them, and the factor on cosines and sines."""
    plain = ops.inverse_frequencies(rope.theta, rope.dims)
    made = [ops.scaled_frequencies(plain, turned) for turned in both(rope)]
    speeds = [own for own, _ in made]
    return (speeds[0] if len(made) == 1 else np.stack(speeds)), made[0][1]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer in one call (`harness.run.block.through`).

    Attributes:
        ops: the arithmetic.
        sparse: it has experts in place of the MLP.
        own: its parameters.
        positions, mask: of the call.
    """

    arch: Architecture
    ops: Operations
    sparse: bool
    tap: TapFunction
    own: nnx.State
    positions: Ids
    mask: Mask
    place: Place

    def allowed(self, count: int, past: Past | None) -> Array:
        """Which keys the tokens of the call may see, so many of them, [batch, 1, position, key]."""
        slots = np.arange(count, dtype=np.int32)
        slots = slots if past is None else slots + past.filled
        allowed: Array = self.ops.allowed(self.mask, slots, self.place.window)
        return allowed

    def turning(self, dtype: jnp.dtype) -> Callable[[Callable[..., Array]], Callable[[Heads], Heads]]:
        """From an operation that rotates, what it does here."""
        rotation: tuple[Array, ...] = ()
        if self.place.frequencies is not None:
            angles = self.ops.rope_angles(self.positions, self._frequencies(self.place.frequencies), dtype)
            rotation = (angles,) if self.place.factor is None else (angles, self.place.factor)
        return lambda rotate: lambda heads: rotate(heads, *rotation) if rotation else heads

    def _frequencies(self, speeds: Array) -> Array:
        """Those of this call: LongRoPE has two tables, and goes by the last position of the call."""
        if speeds.ndim == 1:
            return speeds
        turned = next(rope for rope in self.arch.ropes if rope)
        return jnp.where(is_beyond(turned, jnp.max(self.positions)), speeds[1], speeds[0])

    def parameters(self, kind: str) -> tuple[Array, Array | None]:
        """What a kind of tap is made with: a matrix or the weight of a norm, and a bias where there is one."""
        return arrays_of(self.own, kind)

    def vector(self, name: str) -> Array | None:
        """A parameter by itself, `sinks` or `router_scores`; None where the layer has none."""
        return self.own[name].get_value() if name in self.own else None

    def linear(self, kind: str, x: Array) -> Array:
        """What the projection that makes a kind of tap makes of an array."""
        return self.ops.linear(x, *self.parameters(kind))

    def norm(self, kind: str, x: Array, spec: Norm | None = None) -> Array:
        """What the norm that makes a kind of tap makes of an array; None is the architecture's usual one."""
        return norm(getattr(self.ops, kind), spec or self.arch.norm, x, *self.parameters(kind))


def norm(operation: object, spec: Norm, x: Array, weight: Array, bias: Array | None) -> Array:
    """A norm: its operation is given a bias where there is one."""
    more = () if bias is None else (bias,)
    y: Array = operation(x, weight, spec.eps, *more)  # type: ignore[operator]
    return y
