"""The operations of a decoder, as its options decide: what differs from `OPERATIONS`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.families.options import Architecture, Norm
from harness.families.rope import frequencies
from harness.run.operations import OPERATIONS, Angles, Heads, Hidden, Operations, Probs, rms_norm, wide

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
}
USUAL = Norm(eps=0.0)


@cache
def operations_of(arch: Architecture) -> Operations:
    """The arithmetic of an architecture."""
    changed: dict[str, Callable[..., Any]] = {}
    norm = normed(arch.norm)
    places = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "final_norm")
    changed |= dict.fromkeys(places, norm)
    if arch.qk_norm is not None:
        changed |= dict.fromkeys(("q_norm", "k_norm"), normed(arch.qk_norm))
    if arch.scale != arch.head_dim**-0.5:
        changed["scores"] = partial(_scores, arch.scale)
    if arch.activation != "silu":
        changed["gated"], changed["activated"] = partial(_gated, arch.activation), partial(_act, arch.activation)
    turned = [rope for rope in arch.ropes if rope]
    if any(rope.interleaved or rope.dims < arch.head_dim or frequencies(rope)[1] != 1.0 for rope in turned):
        interleaved = any(rope.interleaved for rope in turned)
        changed |= dict.fromkeys(("rotate_q", "rotate_k"), partial(_rotate, interleaved))
    factors = {
        "embed_scale": arch.embed_scale,
        "residual_scale": arch.residual_scale,
        "logit_scale": arch.logit_scale,
    }
    changed |= {name: partial(_times, factor) for name, factor in factors.items() if factor != 1.0}
    caps = {"score_cap": arch.score_cap, "logit_cap": arch.logit_cap}
    changed |= {name: partial(_capped, cap) for name, cap in caps.items() if cap is not None}
    changed = {name: made for name, made in changed.items() if made is not getattr(OPERATIONS, name)}
    return replace(OPERATIONS, **changed) if changed else OPERATIONS


def normed(norm: Norm) -> Callable[..., Array]:
    """The norm with these options, a function of (x, weight, eps) or (x, weight, eps, bias)."""
    return rms_norm if replace(norm, eps=0.0) == USUAL else partial(_norm, norm)


def _norm(norm: Norm, x: Hidden, weight: Array, eps: float, bias: Array | None = None) -> Hidden:
    y = x.astype(wide(x.dtype))
    if norm.centered:
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    if not norm.weighted_wide:
        y = y.astype(x.dtype)
    weight = weight.astype(y.dtype)
    y = y * (1 + weight if norm.plus_one else weight)
    return (y if bias is None else y + bias.astype(y.dtype)).astype(x.dtype)


def _scores(scale: float, q: Heads, k: Heads) -> Probs:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale


def _rotate(interleaved: bool, x: Heads, angles: Angles, factor: Array | float = 1.0) -> Heads:
    """RoPE on the first dimensions of a head, as many as there are angles for."""
    dims = 2 * angles.shape[-1]
    turned, rest = x[..., :dims], x[..., dims:]
    cos, sin = ((table(angles) * factor).astype(x.dtype)[:, :, None] for table in (jnp.cos, jnp.sin))
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else jnp.split(turned, 2, axis=-1)
    pair = a * cos - b * sin, b * cos + a * sin
    both = jnp.stack(pair, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    return jnp.concatenate([both, rest], axis=-1)


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
