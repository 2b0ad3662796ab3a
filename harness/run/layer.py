"""One layer of the built-in decoder: what is done with its parameters (`harness.run.weights`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from harness.families.frequencies import both, is_beyond
from harness.families.options import Architecture, Norm, Rope
from harness.run.arithmetic import normed
from harness.run.cache import Past
from harness.run.operations import NO_WINDOW, Heads, Hidden, Operations, unchanged
from harness.run.tapping import TapFunction
from harness.run.weights import DecoderLayer

Ids = Int[Array, "batch position"]
Mask = Bool[Array, "batch key"]
Block = Callable[[Hidden], Hidden]


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
    """A layer in one call.

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
    own: DecoderLayer
    positions: Ids
    mask: Mask
    place: Place

    def __call__(self, x: Hidden, past: Past | None) -> tuple[Hidden, Past | None]:
        """The residual stream that leaves the layer, and the cache with this call in it."""

        def attend(read: Hidden) -> Hidden:
            nonlocal past
            update, past = self._attention(read, past)
            return update

        mlp = self._mlp
        if self.sparse:
            from harness.run.mixture import of_experts, tokens_of  # few models have them

            mlp = functools.partial(of_experts, self, tokens_of(self.mask, x.shape[1], past))
        if self.arch.placement.startswith("parallel"):
            return self._side_by_side(x, attend, mlp), past
        x = self.tap("resid_mid", self._added(x, attend, "attn"))
        return self.tap("resid_post", self._added(x, mlp, "mlp")), past

    def _side_by_side(self, x: Hidden, attend: Block, mlp: Block) -> Hidden:
        """Attention and MLP of one residual stream, which is left with both."""
        ops, tap, two = self.ops, self.tap, self.arch.placement == "parallel_two"
        read = tap("attn_norm", self.norm("attn_norm", x))
        update = ops.residual_scale(attend(read))
        again = functools.partial(self.norm, "mlp_norm" if two else "attn_norm")
        read = ops.read_beside(x, update, again, None if two else read)
        from_mlp = ops.residual_scale(mlp(tap("mlp_norm", read) if two else read))
        return tap("resid_post", ops.parallel_residual(x, update, from_mlp))

    def _added(self, x: Hidden, block: Block, kind: str) -> Hidden:
        """The residual stream with what a block makes of it, attention or MLP with the norms that it has."""
        ops, tap, before, after = self.ops, self.tap, f"{kind}_norm", f"{kind}_post_norm"
        first, last = self.arch.placement != "post", self.arch.placement != "pre"
        elsewhere = functools.partial(self._usual_norm, after if last else before)
        read = tap(before, self.norm(before, x)) if first else ops.read_unnormed(x, elsewhere)
        update = block(read)
        update = tap(after, self.norm(after, update)) if last else ops.added_unnormed(update, elsewhere)
        residual = ops.attn_residual if kind == "attn" else ops.mlp_residual
        return ops.left_unnormed(residual(ops.carried(x, read), ops.residual_scale(update)), elsewhere)

    def _attention(self, x: Hidden, past: Past | None) -> tuple[Hidden, Past | None]:
        arch, ops, tap = self.arch, self.ops, self.tap
        if arch.mla is not None:
            from harness.run.latent import latent_attention  # few models have it

            return latent_attention(self, arch.mla, x, past)
        q = tap("q", ops.split_heads(self.linear("q", x), arch.heads))
        k = tap("k", ops.split_heads(self.linear("k", x), arch.kv_heads))
        v = tap("v", ops.split_heads(self.linear("v", x), arch.kv_heads))
        turning = self.turning(x.dtype)
        q = ops.norm_then_turn(q, self._head_norm("q_norm"), turning(ops.rotate_q))
        k = ops.norm_then_turn(k, self._head_norm("k_norm"), turning(ops.rotate_k))
        q, k = tap("q_rope", ops.grow_q(q, self.positions)), tap("k_rope", ops.grow_k(k, self.positions))
        if past is not None:
            k = tap("cache_k", ops.write_k(past.held["cache_k"], k, past.filled))
            v = tap("cache_v", ops.write_v(past.held["cache_v"], v, past.filled))
            past = Past({"cache_k": k, "cache_v": v}, past.filled)
        groups, sinks = arch.heads // arch.kv_heads, () if self.own.sinks is None else (self.own.sinks[...],)
        scores = ops.score_cap(ops.scores(q, ops.repeat_k(k, groups)))
        probs = tap("probs", ops.probabilities(scores, self.allowed(x.shape[1], past), *sinks))
        context = tap("context", ops.context(probs, ops.repeat_v(v, groups)))
        return tap("attn_out", self.linear("attn_out", ops.join_heads(context))), past

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

    def _mlp(self, x: Hidden) -> Hidden:
        tap, ops = self.tap, self.ops
        if self.arch.gated:
            gate = tap("gate", self.linear("gate", x))
            act = ops.gated(gate, tap("up", self.linear("up", x)))
        else:
            act = ops.activated(tap("up", self.linear("up", x)))
        return tap("mlp_out", self.linear("mlp_out", tap("act", act)))

    def parameters(self, kind: str) -> tuple[Array, Array | None]:
        """What a kind of tap is made with: a matrix or the weight of a norm, and a bias where there is one."""
        own: tuple[Array, Array | None] = getattr(self.own, kind).arrays
        return own

    def linear(self, kind: str, x: Array) -> Array:
        """What the projection that makes a kind of tap makes of an array."""
        return self.ops.linear(x, *self.parameters(kind))

    def norm(self, kind: str, x: Array, spec: Norm | None = None) -> Array:
        """What the norm that makes a kind of tap makes of an array; None is the architecture's usual one."""
        return norm(getattr(self.ops, kind), spec or self.arch.norm, x, *self.parameters(kind))

    def _usual_norm(self, kind: str, x: Hidden) -> Hidden:
        """The norm that the model has in a place, whatever stands there in `ops`."""
        return norm(normed(self.arch.norm), self.arch.norm, x, *self.parameters(kind))

    def _head_norm(self, kind: str) -> Callable[[Heads], Heads]:
        """The norm of queries or keys with its tap; where the model has none, they stay as they are."""
        spec = self.arch.qk_norm
        if spec is None:
            return unchanged
        made = functools.partial(norm, getattr(self.ops, kind), spec)
        return lambda x: self.tap(kind, self.ops.norm_heads(x, made, *self.parameters(kind)))


def norm(operation: object, spec: Norm, x: Array, weight: Array, bias: Array | None) -> Array:
    """A norm: its operation is given a bias where there is one."""
    more = () if bias is None else (bias,)
    y: Array = operation(x, weight, spec.eps, *more)  # type: ignore[operator]
    return y
