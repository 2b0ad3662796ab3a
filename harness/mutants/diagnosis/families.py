"""Mutants with a free value: another eps, theta, scale or window than the catalogue's own.

A port rarely has exactly the wrong constant that the catalogue has. The value that explains the port best is
fitted, and then held to the same limit as any other explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.configs import theta
from harness.mutants.layouts import rows_of
from harness.mutants.loading import layer_from
from harness.mutants.mutant import Change, ConfigChange, OperationChange, Read, WeightChange
from harness.run.operations import (
    allowed,
    embed,
    gated,
    linear,
    probabilities,
    residual,
    rms_norm,
    rope_angles,
    rotate,
    wide,
)
from harness.run.operations import scores as scaled_scores


@dataclass(frozen=True, eq=False)
class Family:
    """One mutant of the catalogue with its value left open.

    Attributes:
        mutant: the id of the mutant that stands for the family.
        symbol: what the value is called.
        change: value -> what is planted.
        grid: values to try; the fit starts at the best of them.
        fixed: only these values make sense: they are counts.
        by_layer: every layer has a value of its own.
        forms: what the values stand for, where they only count forms of one bug.
    """

    mutant: str
    symbol: str
    change: Callable[[float], Change]
    grid: tuple[float, ...]
    fixed: bool = False
    by_layer: bool = False
    forms: tuple[str, ...] = ()

    def words(self, value: float) -> str:
        return self.forms[round(value)] if self.forms else f"{self.symbol} {value:.6g}"


def _forms(mutant: str, **forms: Change) -> Family:
    """A bug that is written in several ways, which differ in the last digits or in the direction."""
    changes = tuple(forms.values())
    names = tuple(name.replace("_", " ") for name in forms)
    counts = tuple(float(i) for i in range(len(forms)))
    return Family(mutant, "form", lambda v: changes[round(v)], counts, fixed=True, forms=names)


def _operation(**replaced: Callable[..., Array]) -> OperationChange:
    return OperationChange(replaced)


def _decades(low: float, high: float, each: int = 4) -> tuple[float, ...]:
    """Values between two powers of ten, `each` to a decade."""
    return tuple(float(v) for v in np.logspace(low, high, round((high - low) * each) + 1))


def _times(x: Array, factor: float) -> Array:
    return x * jnp.asarray(factor, x.dtype)


def _scale(value: float) -> Change:
    return _operation(scores=lambda q, k: _times(jnp.einsum("bqhd,bkhd->bhqk", q, k), value))


def _score_cap(value: float) -> Change:
    return _operation(scores=lambda q, k: _capped(scaled_scores(q, k), value))


def _head_cap(value: float) -> Change:
    return _operation(head=lambda x, kernel, bias: _capped(linear(x, kernel, bias), value))


def _capped(x: Array, cap: float) -> Array:
    limit = jnp.asarray(cap, x.dtype)
    return limit * jnp.tanh(x / limit)


def _head_scale(value: float) -> Change:
    return _operation(head=lambda x, kernel, bias: _times(linear(x, kernel, bias), value))


def _embed_scale(value: float) -> Change:
    return _operation(embed=lambda table, ids: _times(embed(table, ids), value))


def _rows_away(value: float) -> Change:
    def look_up(table: Array, ids: Array) -> Array:
        return embed(table, jnp.clip(ids + round(value), 0, len(table) - 1))

    return _operation(embed=look_up)


def _update_scale(value: float) -> Change:
    def add(x: Array, update: Array) -> Array:
        return residual(x, _times(update, value))

    return _operation(attn_residual=add, mlp_residual=add)


def _weight_offset(value: float) -> Change:
    def norm(x: Array, weight: Array, eps: float) -> Array:
        return rms_norm(x, weight + jnp.asarray(value, weight.dtype), eps)

    return _operation(attn_norm=norm, mlp_norm=norm, final_norm=norm)


def _position_shift(value: float) -> Change:
    return _operation(rope_angles=lambda at, speed, dtype: rope_angles(at + round(value), speed, dtype))


def _position_scale(value: float) -> Change:
    return _operation(rope_angles=lambda at, speed, dtype: rope_angles(at, speed * value, dtype))


def _rotated_features(value: float) -> Change:
    """The first `value` features are rotated, with the frequencies of a head of that size."""

    def turn(x: Array, angles: Array) -> Array:
        size = round(value)
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)

    def speeds(base: float, head_dim: int) -> np.ndarray:
        exponents: np.ndarray = np.arange(0, round(value), 2, dtype=np.float64) / round(value)
        return np.asarray(base**-exponents)

    return OperationChange({"rotate_q": turn, "rotate_k": turn, "inverse_frequencies": speeds})


def _last_key(value: float) -> Change:
    def seen(mask: Array, slots: Array, window: Array) -> Array:
        query, key = slots[:, None], jnp.arange(mask.shape[1], dtype=slots.dtype)[None, :]
        return ((key <= query + round(value)) & (key > query - window))[None, None] & mask[:, None, None, :]

    return _operation(allowed=seen)


def _window(value: float) -> Change:
    """In every layer, whatever window is its own."""

    def seen(mask: Array, slots: Array, own: Array) -> Array:
        return allowed(mask, slots, jnp.asarray(round(value), slots.dtype))

    return _operation(allowed=seen)


def _hidden_by(hide: Callable[[Array, Array], Array], value: float) -> Change:
    def softmax(scores: Array, seen: Array) -> Array:
        y = scores.astype(wide(scores.dtype))
        masked = jnp.where(seen, y, hide(y, jnp.asarray(-value, y.dtype)))
        return jax.nn.softmax(masked, axis=-1).astype(scores.dtype)

    return _operation(probabilities=softmax)


def _mask_added(value: float) -> Change:
    return _hidden_by(lambda y, constant: y + constant, value)


def _mask_constant(value: float) -> Change:
    return _hidden_by(lambda y, constant: jnp.full_like(y, constant), value)


def _sink(value: float) -> Change:
    """One more key, whose score is `value`, that gives nothing."""

    def softmax(scores: Array, seen: Array) -> Array:
        edge = ((0, 0), (0, 0), (0, 0), (0, 1))
        extended = jnp.pad(scores, edge, constant_values=value)
        return probabilities(extended, jnp.pad(seen, edge, constant_values=True))[..., :-1]

    return _operation(probabilities=softmax)


def _sigmoid_slope(value: float) -> Change:
    return _operation(gated=lambda gate, up: gate * jax.nn.sigmoid(_times(gate, value)) * up)


def _activation_limit(value: float) -> Change:
    return _operation(gated=lambda gate, up: gated(jnp.minimum(gate, value), jnp.clip(up, -value, value)))


def _every_norm(norm: Callable[..., Array]) -> Change:
    return _operation(attn_norm=norm, mlp_norm=norm, final_norm=norm)


def _narrow_divided(x: Array, weight: Array, eps: float) -> Array:
    y = x.astype(jnp.bfloat16)
    y = y / jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.asarray(eps, y.dtype))
    return weight * y.astype(x.dtype)


def _narrow_squares(x: Array, weight: Array, eps: float) -> Array:
    y = x.astype(wide(x.dtype))
    squares = jnp.square(x.astype(jnp.bfloat16)).astype(y.dtype)
    return weight * (y * jax.lax.rsqrt(jnp.mean(squares, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def _short(x: Array) -> Array:
    return x.astype(jnp.bfloat16).astype(x.dtype)


def _narrow_scores(scores: Array, seen: Array) -> Array:
    return probabilities(_short(scores), seen)


def _narrow_probabilities(scores: Array, seen: Array) -> Array:
    return _short(probabilities(scores, seen))


def _narrow_both(scores: Array, seen: Array) -> Array:
    return _short(probabilities(_short(scores), seen))


def _narrow_by_hand(scores: Array, seen: Array) -> Array:
    y = jnp.where(seen, scores.astype(jnp.bfloat16), jnp.finfo(jnp.bfloat16).min)
    power = jnp.exp(y - y.max(axis=-1, keepdims=True))
    return (power / power.sum(axis=-1, keepdims=True)).astype(scores.dtype)


def _dims_as_heads(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (head_dim, head) taken as (head, head_dim): what the catalogue has, the other way round."""
    return tensor.reshape(head_dim, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def _columns_dims_as_heads(name: str, read: Read, arch: Architecture) -> np.ndarray:
    tensor = read(name)
    return _dims_as_heads(tensor.T, arch.head_dim).T if name.endswith("o_proj.weight") else tensor


COUNTS = (*range(1, 33), 48, 64, 96, 128, 256, 512, 1024, 4096)
FAMILIES = (
    Family("theta_1e4", "theta =", theta, _decades(1, 9)),
    Family(
        "eps_1e5",
        "eps =",
        lambda v: ConfigChange(lambda config: {"rms_norm_eps": v}),
        (0.0, *_decades(-13, -1, 1)),
    ),
    Family("scale_missing", "scale =", _scale, _decades(-3, 2)),
    Family("scores_softcapped", "cap =", _score_cap, _decades(0, 3)),
    Family("head_softcapped", "cap =", _head_cap, _decades(0, 3)),
    Family("head_scaled", "factor =", _head_scale, _decades(-3, 3, 1)),
    Family("embed_scaled", "factor =", _embed_scale, _decades(-3, 3, 1)),
    Family("embed_off_by_one", "rows away:", _rows_away, (-3, -2, -1, 1, 2, 3), fixed=True),
    Family("residual_multiplied", "factor =", _update_scale, _decades(-3, 3, 1)),
    Family("norm_plus_one", "added to the weight:", _weight_offset, (-1.0, 0.5, 1.0, 2.0)),
    Family("positions_shifted", "shift =", _position_shift, tuple(n for n in range(-8, 9) if n), fixed=True),
    Family("positions_scaled", "factor =", _position_scale, _decades(-2, 2, 8)),
    Family("rope_half_of_dims", "rotated", _rotated_features, tuple(n for n in COUNTS if n % 2 == 0), fixed=True),
    Family("causal_one_ahead", "last key: query plus", _last_key, (-3, -2, -1, 1, 2, 3, 4), fixed=True),
    Family("window_512", "window =", _window, COUNTS, fixed=True),
    Family("mask_minus_10", "hidden scores less", _mask_added, _decades(-1, 4)),
    Family("mask_multiplied", "hidden scores: minus", _mask_constant, (0.0, *_decades(-1, 4))),
    Family("softmax_sink", "sink =", _sink, (-4.0, -2.0, 0.0, 2.0, 4.0)),
    Family("activation_quick_gelu", "slope =", _sigmoid_slope, _decades(-1, 1)),
    Family("activation_clamped", "limit =", _activation_limit, _decades(-1, 1, 8)),
    _forms(
        "norm_narrow", divided_by_a_root=_every_norm(_narrow_divided), squares_alone=_every_norm(_narrow_squares)
    ),
    _forms(
        "softmax_narrow",
        scores_alone=_operation(probabilities=_narrow_scores),
        probabilities_alone=_operation(probabilities=_narrow_probabilities),
        scores_and_probabilities=_operation(probabilities=_narrow_both),
        exp_over_sum=_operation(probabilities=_narrow_by_hand),
    ),
    _forms("q_heads_reshaped", the_other_way_round=rows_of("q_proj")(_dims_as_heads)),
    _forms("kv_heads_reshaped", the_other_way_round=rows_of("k_proj", "v_proj")(_dims_as_heads)),
    _forms("o_heads_reshaped", the_other_way_round=WeightChange(_columns_dims_as_heads)),
    Family(
        "layers_shifted",
        "weights of layer",
        lambda v: layer_from(lambda index, count: round(v) % count),
        tuple(range(128)),
        fixed=True,
        by_layer=True,
    ),
)
