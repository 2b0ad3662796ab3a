"""Qwen2 in plain functions, with float32 hard-coded where many JAX models have it: norms, RoPE, softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from harness.checkpoint import Checkpoint
from harness.run.adapters import causal, first_slot


def parameters(directory, dtype):
    """The checkpoint's parameters by their Hugging Face names, matrices as kernels [inputs, outputs]."""
    checkpoint = Checkpoint(directory)

    def read(name):
        value = jax.device_put(checkpoint.read(name).astype(dtype))
        is_kernel = name.endswith("proj.weight") or name == "lm_head.weight"
        return value.T if is_kernel else value

    return {name: read(name) for name in checkpoint.names}


def rms_norm(x, weight, eps):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.float32(eps))
    return jnp.expand_dims(weight, range(x.ndim - 1)) * y.astype(x.dtype)


def rope(x, positions, theta):
    """x [batch, position, heads, head_dim]."""
    half = x.shape[-1] // 2
    frequencies = jnp.float32(theta) ** (-jnp.arange(half, dtype=jnp.float32) / jnp.float32(half))
    angles = positions[..., None, None].astype(jnp.float32) * frequencies[None, None, None]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def probabilities(q, k, mask):
    """q [batch, position, kv_head, group, head_dim], k [batch, slot, kv_head, head_dim], mask [batch, slot]."""
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    visible = causal(mask, q.shape[1])[:, None, None]
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)


def grouped(q, kv_heads):
    return q.reshape(*q.shape[:2], kv_heads, -1, q.shape[-1])


def put(buffer, new, mask):
    """Keys or values in a cache [batch, slot, kv_head, head_dim], at a call's own slots."""
    return jax.lax.dynamic_update_slice(buffer, new, (0, first_slot(mask, new.shape[1]), 0, 0))
