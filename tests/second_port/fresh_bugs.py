"""Bugs that the search had not seen: the catalogue's own, written in another way, then bugs of no catalogue.

At first sight 8 of the 11 of the catalogue were named first, and none of the 11 others was given a name. Mended
since: `merged_feature_first`, whose columns are in the catalogue's other order; `slot_after`, whose last write JAX
clamps to the right slot, so that only earlier calls show it; `head_of_bfloat16`, where a set of two began with the
wider one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from tests.second_port import parts as right
from tests.second_port.bugs import Bug, both
from tests.second_port.parameters import Raw
from tests.second_port.parts import at_least_float32


def gelu_by_the_normal_distribution(gate, up):
    return gate * norm.cdf(gate) * up


def halves_exchanged(x, phase):
    """The second half taken for the real part: that turns the other way."""
    half = x.shape[-1] // 2
    return jnp.roll(right.rotate(jnp.roll(x, half, axis=-1), phase), half, axis=-1)


def root_on_both_sides(q, k):
    """q and k divided by sqrt(D), each."""
    root = jnp.asarray(q.shape[-1] ** 0.5, q.dtype)
    return jnp.einsum("bkgsd,bktd->bkgst", q / root, k / root)


def squared_probabilities(scores, seen):
    """p^2 / sum(p^2): a softmax of twice the scores."""
    power = jnp.square(right.weigh(scores, seen))
    return power / power.sum(axis=-1, keepdims=True)


def layer_norm(x, weight, eps):
    """Mean and variance from the sums of x and of x^2."""
    y = x.astype(at_least_float32(x.dtype))
    mean, square = (s.mean(axis=-1, keepdims=True) for s in (y, y * y))
    return ((y - mean) / jnp.sqrt(square - mean * mean + eps)).astype(x.dtype) * weight


def values_tiled(probs, v):
    """Query head h mixes the values of head h mod K, and scores with its own."""
    heads = probs.reshape(probs.shape[0], -1, *probs.shape[3:])
    mixed = jnp.matmul(heads, jnp.tile(v, (1, probs.shape[2], 1, 1)))
    return mixed.reshape(*probs.shape[:3], *mixed.shape[2:])


def merged_feature_first(context, block):
    """Heads merged as (D, H), then the flat output projection."""
    flat = context.transpose(0, 2, 3, 1).reshape(context.shape[0], context.shape[2], -1)
    return flat @ block.out.reshape(block.out.shape[0], -1).T


def cut_to_8_bits(x, update, normed):
    """Rounded towards zero to 8 significant bits."""
    fraction, exponent = jnp.frexp(x + update)
    return jnp.ldexp(jnp.trunc(fraction * 256) / 256, exponent).astype(x.dtype)


def narrow_head(x, head):
    """Both sides in bfloat16, the sum at the width of the model."""
    short = (side.astype(jnp.bfloat16) for side in (x, head))
    return jnp.einsum("bse,ve->bsv", *short, preferred_element_type=x.dtype)


def slot_after(buffer, new, filled):
    start = filled + 1 if new.shape[2] == 1 else filled
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, start, axis=2)


def alternate_heads(x, phase):
    """Only every other head is rotated."""
    turned = right.rotate(x, phase)
    return turned.at[:, 1::2].set(x[:, 1::2])


def short_table(positions, speed, dtype):
    """A table of 4 positions: JAX reads its last row for every position beyond."""
    return right.phases(jnp.minimum(positions, 3), speed, dtype)


def norm_of_each_eighth(x, weight, eps):
    """The mean of squares over 8 features at a time."""
    y = x.astype(at_least_float32(x.dtype)).reshape(*x.shape[:-1], -1, 8)
    y = y / jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    return y.reshape(x.shape).astype(x.dtype) * weight


def normed_and_rotated(x, phase):
    """A norm of q and k that this family does not have."""
    y = x.astype(at_least_float32(x.dtype))
    y = y / jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True) + 1e-6)
    return right.rotate(y.astype(x.dtype), phase)


def doubled_query_biases(raw: Raw) -> Raw:
    return {name: 2 * w if name.endswith("q_proj.bias") else w for name, w in raw.items()}


def int8(w):
    """Rows in 127 steps to each side of 0."""
    step = np.abs(w).max(axis=-1, keepdims=True) / 127
    return (np.round(w / step) * step).astype(w.dtype)


def int8_keys(raw: Raw) -> Raw:
    return {name: int8(w) if name.endswith("k_proj.weight") else w for name, w in raw.items()}


def four_best_keys(scores, seen):
    """Attention to the four best keys alone."""
    hidden = jnp.where(seen, scores, -jnp.inf)
    fourth = jnp.sort(hidden, axis=-1)[..., -min(4, scores.shape[-1]), None]
    return right.weigh(scores, seen & (hidden >= fourth))


def activation_of_the_product(gate, up):
    return right.activate(gate * up, jnp.ones_like(up))


def norm_after_the_residual(x, update, normed):
    y = x + update
    return right.normalize(y, jnp.ones(y.shape[-1], y.dtype), 1e-6)


def next_tokens_logits(x, head):
    return jnp.roll(right.unembed(x, head), 1, axis=-1)


def stored_in_float8(buffer, new, filled):
    return right.store(buffer, new.astype(jnp.float8_e4m3fn).astype(new.dtype), filled)


FRESH = (
    # Of the catalogue, written in another way.
    Bug("gelu_by_the_normal_distribution", "activation_gelu", {"activate": gelu_by_the_normal_distribution}),
    Bug("rope_halves_exchanged", "rope_backwards", both(halves_exchanged)),
    Bug(
        "theta_squared",
        "rope_exponent_doubled",
        {"frequencies": lambda theta, size: right.frequencies(theta * theta, size)},
    ),
    Bug("root_on_both_sides", "scale_twice", {"similarity": root_on_both_sides}),
    Bug("squared_probabilities", "scale_missing", {"weigh": squared_probabilities}, variation="p^2 / sum(p^2)"),
    Bug("layer_norm_of_sums", "norm_centered", {"normalize_mid": layer_norm}, variation="one norm"),
    Bug("values_tiled", "gqa_tiled_values", {"mix": values_tiled}),
    Bug("merged_feature_first", "o_heads_reshaped", {"project_out": merged_feature_first}),
    Bug(
        "residual_cut_to_8_bits",
        "residual_truncated",
        {"add_attention": cut_to_8_bits, "add_mlp": cut_to_8_bits},
    ),
    Bug("head_of_bfloat16", "head_matmul_bfloat16", {"unembed": narrow_head}),
    Bug("slot_after", "cache_slot_late", {"store_k": slot_after, "store_v": slot_after}, cached=True),
    # In no catalogue.
    Bug("rope_on_alternate_heads", None, both(alternate_heads)),
    Bug("rope_table_too_short", None, {"phases": short_table}),
    Bug("norm_of_each_eighth", None, {"normalize_in": norm_of_each_eighth, "normalize_mid": norm_of_each_eighth}),
    Bug("norm_of_q_and_k", None, both(normed_and_rotated)),
    Bug("query_biases_doubled", None, change=doubled_query_biases),
    Bug("key_weights_in_int8", None, change=int8_keys),
    Bug("four_best_keys", None, {"weigh": four_best_keys}),
    Bug("activation_of_the_product", None, {"activate": activation_of_the_product}),
    Bug("norm_after_the_residual", None, {"add_attention": norm_after_the_residual}),
    Bug("next_tokens_logits", None, {"unembed": next_tokens_logits}),
    Bug("cache_in_float8", None, {"store_k": stored_in_float8, "store_v": stored_in_float8}, cached=True),
)
