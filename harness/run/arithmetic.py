"""The operations of a decoder, as its options decide: what differs from `OPERATIONS`, and nothing else.

They are part of one program, or are compiled one by one, for a decoder that runs them outside a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from harness.families.frequencies import frequencies, inverse_frequencies, scaled
from harness.families.options import Architecture, Experts, Norm
from harness.families.rope import Wide
from harness.run.operations import (
    OPERATIONS,
    WIRING,
    Angles,
    Heads,
    Hidden,
    Operations,
    Probs,
    aligned,
    gated,
    join_heads,
    kept_of_tokens,
    not_grown,
    rms_norm,
    split_heads,
    unchanged,
    unused,
    wide,
)

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
}
USUAL = Norm(eps=0.0)
NO_EXPERTS = Experts(layers=(), count=0, chosen=0, intermediate=0)
# Arguments that are no arrays, by operation.
STATIC = {
    "rope_angles": ("dtype",),
    "repeat_k": ("groups",),
    "repeat_v": ("groups",),
    "split_kv": ("nope",),
    "experts_out": ("act",),
}
# Numpy, in float64 whatever the precision, or nothing at all.
LEFT = frozenset({inverse_frequencies, scaled, unchanged, unused, not_grown, kept_of_tokens})
# Nothing is computed: outside a trace numpy looks at the same numbers, and there is no program for every shape.
VIEWS = frozenset({split_heads, join_heads})


# One object for one function: what is compiled by itself is shared by the architectures that have it.
_bound = cache(partial)


@cache
def operations_of(arch: Architecture) -> Operations:
    """The arithmetic of an architecture."""
    changed: dict[str, Callable[..., Any]] = {}
    norm = normed(arch.norm)
    places = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "final_norm")
    changed |= dict.fromkeys(places, norm)
    if arch.qk_norm is not None:
        changed |= dict.fromkeys(("q_norm", "k_norm"), normed(arch.qk_norm))
        if arch.qk_norm_over == "all":
            changed["norm_heads"] = norm_all_heads
    if arch.mla is not None:
        from harness.run.latent import join_key, split_kv  # few models have it

        changed |= dict.fromkeys(("q_latent_norm", "kv_latent_norm"), normed(arch.mla.norm))
        changed |= {"join_key": join_key, "split_kv": split_kv}
    if arch.scale != arch.head_dim**-0.5:
        changed["scores"] = _bound(_scores, arch.scale)
    if arch.activation != "silu":
        changed["gated"], changed["activated"] = _bound(_gated, arch.activation), _bound(_act, arch.activation)
    turned = [rope for rope in arch.ropes if rope]
    if any(
        r.interleaved or r.wide != "none" or r.dims < arch.head_dim or frequencies(r)[1] != 1.0 for r in turned
    ):
        rope = turned[0]  # which layers have in common
        rotate = _bound(_rotate, rope.interleaved, rope.wide, rope.last, rope.deinterleaved)
        changed |= dict.fromkeys(("rotate_q", "rotate_k"), rotate)
    if turned and turned[0].growth:
        changed["grow_q"] = _bound(_grown, *turned[0].growth)
    if arch.experts is not None:
        changed |= _of_experts(arch.experts, arch.activation)
    factors = {name: getattr(arch, name) for name in ("embed_scale", "residual_scale", "logit_scale")}
    changed |= {name: _bound(_times, factor) for name, factor in factors.items() if factor != 1.0}
    caps = {name: getattr(arch, name) for name in ("score_cap", "logit_cap")}
    changed |= {name: _bound(_capped, cap) for name, cap in caps.items() if cap is not None}
    changed = {name: made for name, made in changed.items() if made is not getattr(OPERATIONS, name)}
    return replace(OPERATIONS, **changed) if changed else OPERATIONS


def _of_experts(experts: Experts, activation: str) -> dict[str, Callable[..., Any]]:
    """What a mixture of experts adds."""
    from harness.run import mixture  # few models have it

    def having(*options: str) -> Experts:
        """Experts with these options: what an operation does not look at makes no other one of it."""
        return replace(NO_EXPERTS, **{name: getattr(experts, name) for name in options})

    act = gated if activation == "silu" else _bound(_gated, activation)
    return {
        "router": _bound(mixture.router, experts.logits_wide),
        "corrected": mixture.corrected,
        "in_groups": _bound(mixture.grouped, having("groups", "chosen_groups", "group_by")),
        "choose": _bound(mixture.choose, having("chosen")),
        "weigh": _bound(mixture.weigh, having("score")),
        "renormed": _bound(mixture.renormed, having("renormed")),
        "routing_scale": _bound(mixture.scaled, experts.factor) if experts.factor != 1.0 else unchanged,
        "dense": _bound(mixture.dense, having("count", "weights_wide")),
        "expert_act": _bound(mixture.clamped, *experts.clamp) if experts.clamp else act,
        "experts_out": mixture.experts_out,
        "shared_act": act,
        "gated_shared": mixture.gated_shared,
        "experts_sum": mixture.experts_sum,
    }


@cache
def one_by_one_of(arch: Architecture) -> Operations:
    """The arithmetic of an architecture, each operation compiled by itself."""
    return one_by_one(operations_of(arch))


def normed(norm: Norm) -> Callable[..., Array]:
    """The norm with these options, a function of (x, weight, eps) or (x, weight, eps, bias)."""
    return rms_norm if replace(norm, eps=0.0) == USUAL else _bound(_norm, replace(norm, eps=0.0))


def _norm(norm: Norm, x: Hidden, weight: Array, eps: float, bias: Array | None = None) -> Hidden:
    y = x.astype(wide(x.dtype))
    if norm.centered:
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    if not norm.weighted_wide:
        y = y.astype(x.dtype)
    weight = aligned(weight, y).astype(y.dtype)
    y = y * (1 + weight if norm.plus_one else weight)
    return (y if bias is None else y + aligned(bias, y).astype(y.dtype)).astype(x.dtype)


def norm_all_heads(
    x: Heads,
    norm: Callable[..., Array],
    *weights: Array | None,
    join: Callable[..., Array] = join_heads,
    split: Callable[..., Array] = split_heads,
) -> Heads:
    """Queries or keys, all heads of a token normed together."""
    return split(norm(join(x), *weights), x.shape[2])


def _scores(scale: float, q: Heads, k: Heads) -> Probs:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale


def _rotate(
    interleaved: bool,
    broad: Wide,
    last: bool,
    deinterleaved: bool,
    x: Heads,
    angles: Angles,
    factor: Array | float = 1.0,
) -> Heads:
    """RoPE on the first dimensions of a head, or its last, as many as there are angles for (`Rope`)."""
    dims = 2 * angles.shape[-1]
    start = x.shape[-1] - dims if last else 0
    before, turned, behind = jnp.split(x, (start, start + dims), axis=-1)
    cos, sin = ((table(angles) * factor)[:, :, None] for table in (jnp.cos, jnp.sin))
    if broad != "all":
        cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    if broad != "none":
        turned, cos, sin = (values.astype(wide(x.dtype)) for values in (turned, cos, sin))
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else jnp.split(turned, 2, axis=-1)
    pair: tuple[Array, ...] = a * cos - b * sin, b * cos + a * sin
    if interleaved and not deinterleaved:
        pair = (jnp.stack(pair, axis=-1).reshape(turned.shape),)
    return jnp.concatenate([before, *(part.astype(x.dtype) for part in pair), behind], axis=-1)


def _grown(beta: float, length: float, q: Heads, positions: Int[Array, "batch position"]) -> Heads:
    """Queries longer by 1 + beta log(1 + floor(position / length)), wide, then cast."""
    steps = jnp.floor(positions.astype(wide(q.dtype)) / length)
    return q * (1 + beta * jnp.log1p(steps)).astype(q.dtype)[:, :, None, None]


def _act(name: str, x: Hidden) -> Hidden:
    """Wide, then cast: in a narrow dtype the cube of a GELU would be rounded on its own."""
    return ACTIVATIONS[name](x.astype(wide(x.dtype))).astype(x.dtype)


def _gated(name: str, gate: Hidden, up: Hidden) -> Hidden:
    return _act(name, gate) * up


def _times(factor: float, x: Array) -> Array:
    return x * jnp.asarray(factor, x.dtype)


def _capped(cap: float, x: Array) -> Array:
    """cap tanh(x / cap)."""
    return jnp.tanh(x / cap) * cap


@cache
def _compiled(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    if function in VIEWS:
        return partial(_viewed, function)
    return function if function in LEFT else jax.jit(function, static_argnames=static)


def _viewed(function: Callable[..., Any], x: Any, *given: Any) -> Any:
    return function(x, *given) if isinstance(x, Tracer) else jnp.asarray(function(np.asarray(x), *given))


def one_by_one(operations: Operations) -> Operations:
    """The same, each function compiled once, however many places it has; arguments that are no arrays are static.

    For a decoder that runs them outside a trace, one after the other, where one of them is often replaced: what is
    replaced runs primitive by primitive, and the rest is compiled once for all such decoders.
    """
    own = {field.name: getattr(operations, field.name) for field in fields(Operations)}
    made = {name: op if name in WIRING else _compiled(op, STATIC.get(name, ())) for name, op in own.items()}
    if made["norm_heads"] is norm_all_heads:
        made["norm_heads"] = partial(norm_all_heads, join=_compiled(join_heads), split=_compiled(split_heads))
    return Operations(**made)
