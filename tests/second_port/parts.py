"""The second port's arithmetic, in small functions; a bug or a correct variant replaces some of them.

B batch, S queries, T keys, H query heads, K key heads, G = H / K, D features a head, E hidden, F intermediate,
V vocabulary. Attention is [B, H, S, D]; RoPE multiplies complex numbers; weights
are [out, in]; everything is an einsum. Each function is compiled by itself; `primitive` ones are not compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.second_port.parameters import Block


def at_least_float32(dtype):
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")


@jax.jit
def look_up(table, ids):
    """[V, E], [B, S] -> [B, S, E]."""
    return jnp.take(table, ids, axis=0)


@jax.jit
def normalize(x, weight, eps):
    """RMS norm of [B, S, E]: a square root and a division."""
    y = x.astype(at_least_float32(x.dtype))
    size = jnp.sqrt(jnp.einsum("bse,bse->bs", y, y) / x.shape[-1] + eps)
    return (y / size[..., None]).astype(x.dtype) * weight


@jax.jit
def project_qkv(x, block: Block):
    """[B, S, E] -> [B, H + 2K, S, D], bias included."""
    return jnp.einsum("bse,hde->bhsd", x, block.qkv) + block.qkv_bias[None, :, None]


def frequencies(theta, size):
    """[D / 2] in float64: exp(-ln(theta) 2i / D)."""
    return np.exp(-np.log(np.float64(theta)) * np.arange(size // 2) * 2 / size)


@partial(jax.jit, static_argnames="dtype")
def phases(positions, speed, dtype):
    """e^(i position frequency): [B, S] -> complex [B, 1, S, D / 2]."""
    real = at_least_float32(dtype)
    angle = jnp.einsum("bs,d->bsd", positions.astype(real), jnp.asarray(speed, real))
    return jax.lax.complex(jnp.cos(angle), jnp.sin(angle))[:, None]


@jax.jit
def rotate(x, phase):
    """RoPE of [B, H, S, D]: feature i is the real part and feature i + D / 2 the imaginary part."""
    real, imaginary = jnp.split(x.astype(at_least_float32(x.dtype)), 2, axis=-1)
    turned = jax.lax.complex(real, imaginary) * phase
    return jnp.concatenate([turned.real, turned.imag], axis=-1).astype(x.dtype)


@partial(jax.jit, static_argnames="key_heads")
def group(q, key_heads):
    """[B, H, S, D] -> [B, K, G, S, D]: neighbouring query heads share a key head."""
    return q.reshape(q.shape[0], key_heads, -1, *q.shape[2:])


@jax.jit
def similarity(q, k):
    """[B, K, G, S, D], [B, K, T, D] -> [B, K, G, S, T]; q is scaled first."""
    return jnp.einsum("bkgsd,bktd->bkgst", q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), k)


@jax.jit
def visible(mask, queries):
    """[B, T], [S] -> [B, 1, 1, S, T]: keys neither in the future nor padding, in the tokens' order."""
    return (queries[:, None] >= jnp.arange(mask.shape[1]))[None, None, None] & mask[:, None, None, None, :]


@jax.jit
def store(buffer, new, filled):
    """[B, K, T, D] with [B, K, S, D] from slot `filled` on."""
    slots = filled + jnp.arange(new.shape[2])
    return buffer.at[:, :, slots].set(new)


@jax.jit
def weigh(scores, seen):
    """Softmax over the visible keys."""
    wide = at_least_float32(scores.dtype)
    hidden = jnp.where(seen, scores.astype(wide), jnp.asarray(-1e30, wide))
    power = jnp.exp(hidden - hidden.max(axis=-1, keepdims=True))
    return (power / power.sum(axis=-1, keepdims=True)).astype(scores.dtype)


@jax.jit
def mix(weights, v):
    """[B, K, G, S, T], [B, K, T, D] -> [B, K, G, S, D]."""
    return jnp.einsum("bkgst,bktd->bkgsd", weights, v)


@jax.jit
def project_out(context, block: Block):
    """[B, H, S, D] -> [B, S, E]."""
    return jnp.einsum("bhsd,ehd->bse", context, block.out)


@jax.jit
def project_mlp(x, block: Block):
    """[B, S, E] -> gate and up, [2, B, S, F]."""
    return jnp.einsum("bse,nfe->nbsf", x, block.gate_up)


@jax.jit
def activate(gate, up):
    return gate / (1 + jnp.exp(-gate)) * up


@jax.jit
def project_down(x, block: Block):
    return jnp.einsum("bsf,ef->bse", x, block.down)


@jax.jit
def add(x, update, normed):
    """The residual stream; `normed` is what the branch was fed with."""
    return x + update


@jax.jit
def unembed(x, head):
    return jnp.einsum("bse,ve->bsv", x, head)


@dataclass(frozen=True)
class Parts:
    """Everything that one layer, or what comes before and after the layers, computes with."""

    look_up: Callable = look_up
    normalize_in: Callable = normalize
    project_qkv: Callable = project_qkv
    frequencies: Callable = frequencies
    phases: Callable = phases
    rotate_q: Callable = rotate
    rotate_k: Callable = rotate
    group_q: Callable = group
    similarity: Callable = similarity
    visible: Callable = visible
    store_k: Callable = store
    store_v: Callable = store
    places: Callable = lambda positions, filled: positions
    weigh: Callable = weigh
    values: Callable = lambda v, phase: v
    mix: Callable = mix
    project_out: Callable = project_out
    add_attention: Callable = add
    normalize_mid: Callable = normalize
    mlp_input: Callable = lambda x, middle: middle
    project_mlp: Callable = project_mlp
    activate: Callable = activate
    project_down: Callable = project_down
    add_mlp: Callable = add
    normalize_out: Callable = normalize
    unembed: Callable = unembed


PARTS = Parts()


def primitive(parts: Parts) -> Parts:
    """The same, primitive by primitive."""
    made = {field.name: getattr(parts, field.name) for field in fields(Parts)}
    return Parts(**{name: getattr(part, "__wrapped__", part) for name, part in made.items()})
