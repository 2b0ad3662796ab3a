"""Bugs that were planted after the search had been written, so that nothing in it was made for them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.second_port import parts as right
from tests.second_port.bugs import Bug, both, from_layer, not_rotated, rounded, scaled_by, seen_where, weights
from tests.second_port.parameters import Raw
from tests.second_port.parts import at_least_float32


def eps_as_floor(x, weight, eps):
    y = x.astype(at_least_float32(x.dtype))
    size = jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True))
    return (y / jnp.where(size > eps, size, eps)).astype(x.dtype) * weight


def six_of_eight(x, phase):
    """Three of four pairs are rotated, with the frequencies of a head of that size."""
    speed = right.frequencies(1e6, 6)
    step = jnp.angle(phase[:, :, 1:2, :1]) if x.shape[2] > 1 else jnp.ones((1, 1, 1, 1), phase.real.dtype)
    positions = jnp.arange(x.shape[2], dtype=phase.real.dtype)[None, None, :, None] * jnp.round(step)
    angle = positions * jnp.asarray(speed, phase.real.dtype)
    turned = right.rotate(x[..., :6], jax.lax.complex(jnp.cos(angle), jnp.sin(angle)))
    return jnp.concatenate([turned, x[..., 6:]], axis=-1)


def first_head_alone(x, phase):
    return jnp.concatenate([right.rotate(x[:, :1], phase), x[:, 1:]], axis=1)


def cos_for_sin(x, phase):
    return right.rotate(x, jax.lax.complex(phase.imag, phase.real))


def one_key_head(q, k):
    return right.similarity(q, jnp.broadcast_to(k[:, :1], k.shape))


def one_value_head(probs, v):
    return right.mix(probs, jnp.broadcast_to(v[:, :1], v.shape))


def sink_of(value):
    def weigh(scores, seen):
        wide = at_least_float32(scores.dtype)
        power = jnp.where(seen, jnp.exp(scores.astype(wide)), 0)
        return (power / (np.exp(value) + power.sum(axis=-1, keepdims=True))).astype(scores.dtype)

    return weigh


def hidden_by_3(scores, seen):
    return jax.nn.softmax(scores + jnp.where(seen, 0, -3).astype(scores.dtype), axis=-1)


def capped_at_20(q, k):
    return 20 * jnp.tanh(right.similarity(q, k) / 20)


def exchanged(first: str, second: str, raw: Raw) -> Raw:
    def other(name: str) -> str:
        return name.replace(first, second) if first in name else name.replace(second, first)

    return {name: raw[other(name)] for name in raw}


def pairs_for_neighbours(value):
    """Rows of a head, half by half, laid out pair by pair."""
    size = 8
    heads = value.reshape(-1, 2, size // 2, *value.shape[1:])
    return heads.swapaxes(1, 2).reshape(value.shape)


def narrow_sum(x, update, normed):
    return rounded(x + update)


def tf32_output(context, block):
    context, out = (jax.lax.reduce_precision(side, 8, 10) for side in (context, block.out))
    return right.project_out(context, block._replace(out=out))


def ones_in_layer_2(raw: Raw) -> Raw:
    name = "model.layers.2.post_attention_layernorm.weight"
    return {**raw, name: np.ones_like(raw[name])}


def to_the_base_2(scores, seen):
    return right.weigh(scores * np.log(2.0).astype(scores.dtype), seen)


NORMS = ("normalize_in", "normalize_mid", "normalize_out")
LATER = (
    Bug("eps_as_floor", "norm_eps_as_maximum", dict.fromkeys(NORMS, eps_as_floor)),
    Bug("row_after", "embed_off_by_one", {"look_up": lambda t, ids: right.look_up(t, ids + 1)}, variation="+ 1"),
    Bug(
        "positions_by_4",
        "positions_scaled",
        {"phases": lambda at, speed, dtype: right.phases(at, speed / 4, dtype)},
        variation="/ 4",
    ),
    Bug(
        "positions_from_3",
        "positions_shifted",
        {"phases": lambda at, speed, dtype: right.phases(at + 3, speed, dtype)},
        variation="+ 3",
    ),
    Bug("rope_6_of_8", "rope_half_of_dims", both(six_of_eight), variation="6 of 8"),
    Bug("rope_first_head", "rope_first_head_only", both(first_head_alone)),
    Bug("rope_cos_for_sin", "rope_sin_cos_swapped", both(cos_for_sin)),
    Bug("rope_only_on_k", "rope_missing", {"rotate_q": not_rotated}, variation="queries alone"),
    Bug("one_kv_head", "gqa_first_head_only", {"similarity": one_key_head, "mix": one_value_head}),
    Bug("window_5", "window_512", {"visible": seen_where(lambda q, k: (k <= q) & (k > q - 5))}, variation="5"),
    Bug("sees_two_ahead", "causal_one_ahead", {"visible": seen_where(lambda q, k: k <= q + 2)}, variation="+ 2"),
    Bug("sees_what_follows", "causal_transposed", {"visible": seen_where(lambda q, k: k >= q)}),
    Bug("scale_of_128", "scale_missing", {"similarity": scaled_by(lambda d: 128**-0.5)}, variation="128^-0.5"),
    Bug("scores_capped_at_20", "scores_softcapped", {"similarity": capped_at_20}, variation="20"),
    Bug("mask_minus_3", "mask_minus_10", {"weigh": hidden_by_3}, variation="3"),
    Bug("sink_of_1.5", "softmax_sink", {"weigh": sink_of(1.5)}, variation="1.5"),
    Bug("k_and_v_exchanged", "kv_exchanged", change=partial(exchanged, "k_proj", "v_proj")),
    Bug("gate_and_up_exchanged", "gate_up_exchanged", change=partial(exchanged, "gate_proj", "up_proj")),
    Bug(
        "rows_for_interleaved_rope",
        "qk_permuted_for_interleaved_rope",
        change=lambda raw: {
            name: pairs_for_neighbours(w) if ".q_proj." in name or ".k_proj." in name else w
            for name, w in raw.items()
        },
    ),
    Bug("o_tf32", "projection_matmul_tf32", {"project_out": tf32_output}, variation="one product"),
    Bug("relu", "activation_relu", {"activate": lambda gate, up: jnp.maximum(gate, 0) * up}),
    Bug("no_up", "activation_without_up", {"activate": lambda gate, up: right.activate(gate, jnp.ones_like(up))}),
    Bug(
        "sigmoid_slope_1.5",
        "activation_quick_gelu",
        {"activate": lambda gate, up: gate / (1 + jnp.exp(-1.5 * gate)) * up},
        variation="1.5",
    ),
    Bug("residual_bfloat16", "residual_in_bfloat16", {"add_attention": narrow_sum, "add_mlp": narrow_sum}),
    Bug("norm_of_layer_2_is_1", "norm_weight_ignored", change=ones_in_layer_2, variation="one layer, one norm"),
    Bug("layer_3_repeats_2", "layers_shifted", change=partial(from_layer, lambda i: min(i, 2)), variation="one"),
    # 2^s is e^(s ln 2): for every input the same function as another scale.
    Bug("softmax_base_2", "scale_missing", {"weigh": to_the_base_2}, variation="2^s"),
    Bug("k_transposed_blocks", None, change=weights(lambda w: w[::-1], "k_proj")),
    Bug("o_columns_reversed", None, change=weights(lambda w: w[:, ::-1], "o_proj")),
    Bug("activation_softplus", None, {"activate": lambda gate, up: jax.nn.softplus(gate) * up}),
    Bug("rope_angle_squared", None, {"phases": lambda at, speed, dtype: right.phases(at * at, speed, dtype)}),
    Bug(
        "mean_of_logits_removed",
        None,
        {"unembed": lambda x, w: (y := right.unembed(x, w)) - y.mean(-1, keepdims=True)},
    ),
    Bug(
        "window_of_keys_0_and_near",
        None,
        {"visible": seen_where(lambda q, k: (k <= q) & ((k == 0) | (k > q - 4)))},
    ),
    Bug("up_used_twice", None, {"activate": lambda gate, up: right.activate(gate, up) * up}),
)
