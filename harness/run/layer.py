"""One layer of the built-in decoder: what is done with its parameters (`harness.run.modules`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from harness.families.frequencies import both, is_beyond
from harness.families.options import Architecture, Latent, Norm, Rope
from harness.families.parameters import experts_of
from harness.run.arithmetic import normed
from harness.run.cache import Past
from harness.run.latent import Own, latent_attention
from harness.run.mixture import Matrices
from harness.run.modules import DecoderLayer, Mixture, Projection, Weighted
from harness.run.operations import NO_WINDOW, Heads, Hidden, Operations, unchanged
from harness.run.sparse import OwnExperts, of_experts, tokens_of
from harness.run.tapping import TapFunction

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
    found = []
    for window, rope in zip(arch.windows, arch.ropes, strict=True):
        speeds, factor = None, 1.0
        if rope is not None:
            speeds, factor = _speeds(rope, ops)
        elif turned is not None:
            speeds = np.zeros_like(_speeds(turned, ops)[0])
        found.append((np.int32(min(window or NO_WINDOW, NO_WINDOW)), speeds, np.float64(factor)))
    plain = all(factor == 1.0 for *_, factor in found)
    return [Place(window, speeds, None if plain else factor) for window, speeds, factor in found]


def _speeds(rope: Rope, ops: Operations) -> tuple[np.ndarray, float]:
    """Frequencies, [half] or two tables of them, and the factor on cosines and sines."""
    plain = ops.inverse_frequencies(rope.theta, rope.dims)
    made = [ops.scaled_frequencies(plain, one) for one in both(rope)]
    speeds = [own for own, _ in made]
    return (speeds[0] if len(made) == 1 else np.stack(speeds)), made[0][1]


@dataclass(frozen=True)
class Layer:
    """What every layer of an architecture does with its parameters.

    Attributes:
        ops: the arithmetic.
        sparse: it has experts in place of the MLP.
    """

    arch: Architecture
    ops: Operations
    sparse: bool = False

    def __call__(
        self,
        tap: TapFunction,
        own: DecoderLayer,
        x: Hidden,
        positions: Ids,
        mask: Mask,
        place: Place,
        past: Past | None,
    ) -> tuple[Hidden, Past | None]:
        """The residual stream that leaves the layer, and the cache with this call in it."""

        def attend(read: Hidden) -> Hidden:
            nonlocal past
            update, past = self._attention(tap, own, read, positions, mask, place, past)
            return update

        mlp = functools.partial(self._mlp, tap, own)
        if self.sparse:
            mlp = functools.partial(self._experts, tap, own, tokens_of(mask, x.shape[1], past))
        if self.arch.placement.startswith("parallel"):
            return self._side_by_side(tap, own, x, attend, mlp), past
        x = tap("resid_mid", self._added(tap, own, x, attend, "attn"))
        return tap("resid_post", self._added(tap, own, x, mlp, "mlp")), past

    def _side_by_side(self, tap: TapFunction, own: DecoderLayer, x: Hidden, attend: Block, mlp: Block) -> Hidden:
        """Attention and MLP of one residual stream, which is left with both."""
        ops, two = self.ops, self.arch.placement == "parallel_two"
        read = tap("attn_norm", self._norm("attn_norm", own, x))
        update = ops.residual_scale(attend(read))
        again = functools.partial(self._norm, "mlp_norm" if two else "attn_norm", own)
        read = ops.read_beside(x, update, again, None if two else read)
        other = ops.residual_scale(mlp(tap("mlp_norm", read) if two else read))
        return tap("resid_post", ops.parallel_residual(x, update, other))

    def _added(self, tap: TapFunction, own: DecoderLayer, x: Hidden, block: Block, kind: str) -> Hidden:
        """The residual stream with what a block makes of it, attention or MLP with the norms that it has."""
        ops, before, after = self.ops, f"{kind}_norm", f"{kind}_post_norm"
        first, last = self.arch.placement != "post", self.arch.placement != "pre"
        elsewhere = functools.partial(self._usual_norm, after if last else before, own)
        read = tap(before, self._norm(before, own, x)) if first else ops.read_unnormed(x, elsewhere)
        update = block(read)
        update = tap(after, self._norm(after, own, update)) if last else ops.added_unnormed(update, elsewhere)
        residual = ops.attn_residual if kind == "attn" else ops.mlp_residual
        return ops.left_unnormed(residual(ops.carried(x, read), ops.residual_scale(update)), elsewhere)

    def _attention(
        self,
        tap: TapFunction,
        own: DecoderLayer,
        x: Hidden,
        positions: Ids,
        mask: Mask,
        place: Place,
        past: Past | None,
    ) -> tuple[Hidden, Past | None]:
        arch, ops = self.arch, self.ops
        if arch.mla is not None:
            return self._latent_attention(arch.mla, tap, own, x, positions, mask, place, past)
        q = tap("q", ops.split_heads(self._linear("q", own, x), arch.heads))
        k = tap("k", ops.split_heads(self._linear("k", own, x), arch.kv_heads))
        v = tap("v", ops.split_heads(self._linear("v", own, x), arch.kv_heads))
        turning = self._turning(place, positions, x.dtype)
        q = ops.norm_then_turn(q, self._head_norm("q_norm", own, tap), turning(ops.rotate_q))
        k = ops.norm_then_turn(k, self._head_norm("k_norm", own, tap), turning(ops.rotate_k))
        q, k = tap("q_rope", ops.grow_q(q, positions)), tap("k_rope", ops.grow_k(k, positions))
        slots, groups = np.arange(x.shape[1], dtype=np.int32), arch.heads // arch.kv_heads
        if past is not None:
            k = tap("cache_k", ops.write_k(past.held["cache_k"], k, past.filled))
            v = tap("cache_v", ops.write_v(past.held["cache_v"], v, past.filled))
            slots = slots + past.filled
            past = Past({"cache_k": k, "cache_v": v}, past.filled)
        scores = ops.score_cap(ops.scores(q, ops.repeat_k(k, groups)))
        sinks = () if own.sinks is None else (own.sinks[...],)
        probs = tap("probs", ops.probabilities(scores, ops.allowed(mask, slots, place.window), *sinks))
        context = tap("context", ops.context(probs, ops.repeat_v(v, groups)))
        return tap("attn_out", self._linear("attn_out", own, ops.join_heads(context))), past

    def _latent_attention(
        self,
        mla: Latent,
        tap: TapFunction,
        own: DecoderLayer,
        x: Hidden,
        positions: Ids,
        mask: Mask,
        place: Place,
        past: Past | None,
    ) -> tuple[Hidden, Past | None]:
        turning, ops = self._turning(place, positions, x.dtype), self.ops
        parts = Own(
            linear=lambda kind, value: self._linear(kind, own, value),
            norm=lambda kind, value: norm(getattr(ops, kind), value, mla.norm, *_weights(getattr(own, kind))),
            turn_q=lambda q: ops.grow_q(turning(ops.rotate_q)(q), positions),
            turn_k=lambda k: ops.grow_k(turning(ops.rotate_k)(k), positions),
            allowed=lambda slots: ops.allowed(mask, slots, place.window),
        )
        return latent_attention(mla, ops, tap, parts, x, self.arch.heads, past)

    def _turning(
        self, place: Place, positions: Ids, dtype: jnp.dtype
    ) -> Callable[[Callable[..., Array]], Callable[[Heads], Heads]]:
        """From an operation that rotates, what it does here."""
        rotation: tuple[Array, ...] = ()
        if place.frequencies is not None:
            angles = self.ops.rope_angles(positions, self._frequencies(place.frequencies, positions), dtype)
            rotation = (angles,) if place.factor is None else (angles, place.factor)
        return lambda rotate: lambda heads: rotate(heads, *rotation) if rotation else heads

    def _frequencies(self, speeds: Array, positions: Ids) -> Array:
        """Those of this call: LongRoPE has two tables, and goes by the last position of the call."""
        if speeds.ndim == 1:
            return speeds
        turned = next(rope for rope in self.arch.ropes if rope)
        return jnp.where(is_beyond(turned, jnp.max(positions)), speeds[1], speeds[0])

    def _mlp(self, tap: TapFunction, own: DecoderLayer, x: Hidden) -> Hidden:
        if self.arch.gated:
            gate = tap("gate", self._linear("gate", own, x))
            act = self.ops.gated(gate, tap("up", self._linear("up", own, x)))
        else:
            act = self.ops.activated(tap("up", self._linear("up", own, x)))
        return tap("mlp_out", self._linear("mlp_out", own, tap("act", act)))

    def _experts(self, tap: TapFunction, own: DecoderLayer, tokens: Mask, x: Hidden) -> Hidden:
        router, correction = own.router_logits, own.router_scores
        parts = OwnExperts(
            linear=lambda kind, value: self._linear(kind, own, value),
            router=(router.kernel[...], None if router.bias is None else router.bias[...]),
            correction=None if correction is None else correction[...],
            gate=_matrices(own.experts_gate),
            up=_matrices(own.experts_up),
            down=_matrices(own.experts_down),
        )
        return of_experts(experts_of(self.arch), self.ops, tap, parts, x, tokens)

    def _linear(self, kind: str, own: DecoderLayer, x: Array) -> Array:
        projection: Projection = getattr(own, kind)
        bias = None if projection.bias is None else projection.bias[...]
        return self.ops.linear(x, projection.kernel[...], bias)

    def _norm(self, kind: str, own: DecoderLayer, x: Hidden) -> Hidden:
        return norm(getattr(self.ops, kind), x, self.arch.norm, *_weights(getattr(own, kind)))

    def _usual_norm(self, kind: str, own: DecoderLayer, x: Hidden) -> Hidden:
        """The norm that the model has in a place, whatever stands there in `ops`."""
        return norm(normed(self.arch.norm), x, self.arch.norm, *_weights(getattr(own, kind)))

    def _head_norm(self, kind: str, own: DecoderLayer, tap: TapFunction) -> Callable[[Heads], Heads]:
        """The norm of queries or keys with its tap; where the model has none, they stay as they are."""
        spec = self.arch.qk_norm
        if spec is None:
            return unchanged
        made = functools.partial(_normed_by, getattr(self.ops, kind), spec)
        return lambda x: tap(kind, self.ops.norm_heads(x, made, *_weights(getattr(own, kind))))


def norm(operation: object, x: Array, spec: Norm, weight: Array, bias: Array | None) -> Array:
    """A norm: its operation is given a bias where there is one."""
    more = () if bias is None else (bias,)
    y: Array = operation(x, weight, spec.eps, *more)  # type: ignore[operator]
    return y


def _normed_by(operation: object, spec: Norm, x: Array, weight: Array, bias: Array | None) -> Array:
    return norm(operation, x, spec, weight, bias)


def _weights(own: Weighted) -> tuple[Array, Array | None]:
    return own.weight[...], None if own.bias is None else own.bias[...]


def _matrices(own: Mixture) -> Matrices:
    return Matrices(own.kernel[...], None if own.bias is None else own.bias[...])
