"""Bugs with a free value: (value) -> what is planted; and forms of one bug, which differ in the last digits."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.mutants.mlp import everywhere
from harness.mutants.mutant import ALIKE_NORMS, Around, Change, OperationChange
from harness.run.operations import (
    allowed,
    embed,
    gated,
    probabilities,
    residual,
    rms_norm,
    rope_angles,
    rotate,
    wide,
)


def operation(**replaced: Callable[..., Array]) -> OperationChange:
    return OperationChange(replaced)


def around(**made: Callable[[Callable[..., Array]], Callable[..., Array]]) -> OperationChange:
    """Whatever the operations are, with something done to what goes in or comes out."""
    return OperationChange({name: Around(make) for name, make in made.items()})


def _times(x: Array, factor: float) -> Array:
    return x * jnp.asarray(factor, x.dtype)


def scale_of(value: float) -> Change:
    """The catalogue's own scale taken back, whatever else is done to the scores."""
    return around(scores=lambda inner: lambda q, k: _times(inner(q, k), value * q.shape[-1] ** 0.5))


def score_cap(value: float) -> Change:
    return around(scores=lambda inner: lambda q, k: _capped(inner(q, k), value))


def head_cap(value: float) -> Change:
    return around(head=lambda inner: lambda x, kernel, bias: _capped(inner(x, kernel, bias), value))


def _capped(x: Array, cap: float) -> Array:
    limit = jnp.asarray(cap, x.dtype)
    return limit * jnp.tanh(x / limit)


def head_scale(value: float) -> Change:
    return around(head=lambda inner: lambda x, kernel, bias: _times(inner(x, kernel, bias), value))


def embed_scale(value: float) -> Change:
    return operation(embed=lambda table, ids: _times(embed(table, ids), value))


def rows_away(value: float) -> Change:
    def look_up(table: Array, ids: Array) -> Array:
        return embed(table, jnp.clip(ids + round(value), 0, len(table) - 1))

    return operation(embed=look_up)


def update_scale(value: float) -> Change:
    def add(x: Array, update: Array) -> Array:
        return residual(x, _times(update, value))

    return operation(attn_residual=add, mlp_residual=add)


def weight_offset(value: float) -> Change:
    def norm(x: Array, weight: Array, eps: float) -> Array:
        return rms_norm(x, weight + jnp.asarray(value, weight.dtype), eps)

    return every_norm(norm)


def position_shift(value: float) -> Change:
    return operation(rope_angles=lambda at, speed, dtype: rope_angles(at + round(value), speed, dtype))


def position_scale(value: float) -> Change:
    return operation(rope_angles=lambda at, speed, dtype: rope_angles(at, speed * value, dtype))


def rotated_features(value: float) -> Change:
    """The first `value` features are rotated, with the frequencies of a head of that size."""

    def turn(x: Array, angles: Array) -> Array:
        size = round(value)
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)

    def speeds(base: float, head_dim: int) -> np.ndarray:
        exponents: np.ndarray = np.arange(0, round(value), 2, dtype=np.float64) / round(value)
        return np.asarray(base**-exponents)

    return OperationChange({"rotate_q": turn, "rotate_k": turn, "inverse_frequencies": speeds})


def last_key(value: float) -> Change:
    def seen(mask: Array, slots: Array, window: Array) -> Array:
        query, key = slots[:, None], jnp.arange(mask.shape[1], dtype=slots.dtype)[None, :]
        return ((key <= query + round(value)) & (key > query - window))[None, None] & mask[:, None, None, :]

    return operation(allowed=seen)


def window_of(value: float) -> Change:
    """In every layer, whatever window is its own."""

    def seen(mask: Array, slots: Array, own: Array) -> Array:
        return allowed(mask, slots, jnp.asarray(round(value), slots.dtype))

    return operation(allowed=seen)


def _hidden_by(hide: Callable[[Array, Array], Array], value: float) -> Change:
    def softmax(scores: Array, seen: Array, *sinks: Array) -> Array:
        y = scores.astype(wide(scores.dtype))
        masked = jnp.where(seen, y, hide(y, jnp.asarray(-value, y.dtype)))
        return probabilities(masked, jnp.broadcast_to(True, masked.shape), *sinks).astype(scores.dtype)

    return operation(probabilities=softmax)


def mask_added(value: float) -> Change:
    return _hidden_by(lambda y, constant: y + constant, value)


def mask_constant(value: float) -> Change:
    return _hidden_by(lambda y, constant: jnp.full_like(y, constant), value)


def sink(value: float) -> Change:
    """One more key, whose score is `value`, that gives nothing."""

    def softmax(scores: Array, seen: Array, *sinks: Array) -> Array:
        edge = ((0, 0), (0, 0), (0, 0), (0, 1))
        extended = jnp.pad(scores, edge, constant_values=value)
        return probabilities(extended, jnp.pad(seen, edge, constant_values=True))[..., :-1]

    return operation(probabilities=softmax)


def sigmoid_slope(value: float) -> Change:
    return everywhere(lambda gate, up: gate * jax.nn.sigmoid(_times(gate, value)) * up)


def activation_limit(value: float) -> Change:
    return everywhere(lambda gate, up: gated(jnp.minimum(gate, value), jnp.clip(up, -value, value)))


def every_norm(norm: Callable[..., Array]) -> Change:
    return OperationChange(dict.fromkeys(sorted(ALIKE_NORMS), norm))


def narrow_divided(x: Array, weight: Array, eps: float) -> Array:
    y = x.astype(jnp.bfloat16)
    y = y / jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.asarray(eps, y.dtype))
    return weight * y.astype(x.dtype)


def narrow_squares(x: Array, weight: Array, eps: float) -> Array:
    y = x.astype(wide(x.dtype))
    squares = jnp.square(x.astype(jnp.bfloat16)).astype(y.dtype)
    return weight * (y * jax.lax.rsqrt(jnp.mean(squares, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def _short(x: Array) -> Array:
    return x.astype(jnp.bfloat16).astype(x.dtype)


def narrow_scores(scores: Array, seen: Array, *sinks: Array) -> Array:
    return probabilities(_short(scores), seen, *sinks)


def narrow_probabilities(scores: Array, seen: Array, *sinks: Array) -> Array:
    return _short(probabilities(scores, seen, *sinks))


def narrow_both(scores: Array, seen: Array, *sinks: Array) -> Array:
    return _short(probabilities(_short(scores), seen, *sinks))


def narrow_by_hand(scores: Array, seen: Array, *sinks: Array) -> Array:
    y = jnp.where(seen, scores.astype(jnp.bfloat16), jnp.finfo(jnp.bfloat16).min)
    power = jnp.exp(y - y.max(axis=-1, keepdims=True))
    return (power / power.sum(axis=-1, keepdims=True)).astype(scores.dtype)


def dims_as_heads(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (head_dim, head) taken as (head, head_dim): what the catalogue has, the other way round."""
    return tensor.reshape(head_dim, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
