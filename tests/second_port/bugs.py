"""Bugs planted by hand in the second port, selectable by name.

`catalogue` is the id of the mutant of harness/mutants that describes the bug; None where no mutant does.
`variation` says what differs from the mutant: another value, another layer, one tensor alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.second_port import parts as right
from tests.second_port.parameters import Raw
from tests.second_port.parts import PARTS, Parts, at_least_float32
from tests.second_port.port import SecondPort


@dataclass(frozen=True)
class Bug:
    """A bug: some parts replaced, in all layers or in `layers`; or parameters changed on the way in."""

    name: str
    catalogue: str | None
    parts: dict[str, Callable] = field(default_factory=dict)
    change: Callable[[Raw], Raw] = lambda raw: raw
    layers: tuple[int, ...] | None = None
    variation: str | None = None
    cached: bool = False  # only cases with a cache can show it

    def load(self, directory, config, dtype, mesh=None) -> SecondPort:
        wrong = replace(PARTS, **self.parts)

        def chosen(layer: int) -> Parts:
            return wrong if self.layers is None or layer in self.layers else PARTS

        return SecondPort.load(directory, config, dtype, mesh, parts=chosen, change=self.change)


# -- embedding and head


def scaled_embedding(table, ids):
    x = right.look_up(table, ids)
    return x * jnp.asarray(table.shape[1] ** 0.5, x.dtype)


def unit_embedding(table, ids):
    x = right.look_up(table, ids)
    return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True))


def softcapped(x, head, cap=30.0):
    return cap * jnp.tanh(right.unembed(x, head) / cap)


def log_probabilities(x, head):
    return jax.nn.log_softmax(right.unembed(x, head), axis=-1)


# -- norms


def centred(x, weight, eps):
    y = x - x.mean(axis=-1, keepdims=True)
    return right.normalize(y, weight, eps)


def eps_beside_the_root(x, weight, eps):
    y = x.astype(at_least_float32(x.dtype))
    return (y / (jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True)) + eps)).astype(x.dtype) * weight


def squares_in_bfloat16(x, weight, eps):
    y = x.astype(jnp.bfloat16)
    size = jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.asarray(eps, jnp.bfloat16))
    return (y / size).astype(x.dtype) * weight


def mean_absolute(x, weight, eps):
    """The mean of |x| for the root of the mean of x^2."""
    return x / (jnp.abs(x).mean(axis=-1, keepdims=True) + eps) * weight


def unbiased(x, weight, eps):
    """n - 1 in the mean of squares."""
    y = x.astype(at_least_float32(x.dtype))
    squares = jnp.square(y).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)
    return (y / jnp.sqrt(squares + eps)).astype(x.dtype) * weight


# -- projections


def head_dimension_first(x, block):
    """The projection's rows taken as [D, H] where they are [H, D]."""
    y = right.project_qkv(x, block)
    heads, size = block.out.shape[1], block.out.shape[2]
    q = y[:, :heads].transpose(0, 2, 1, 3).reshape(*x.shape[:2], size, heads)
    return jnp.concatenate([q.transpose(0, 3, 1, 2), y[:, heads:]], axis=1)


def heads_reversed(context, block):
    return right.project_out(context[:, ::-1], block)


def biases(value, *names):
    """Every bias of these projections becomes `value(bias)`."""
    return partial(_each, [f".{n}_proj.bias" for n in names], value)


def weights(value, *names):
    return partial(_each, [f".{n}.weight" for n in names], value)


def _each(endings, value, raw: Raw) -> Raw:
    return {name: value(w) if name.endswith(tuple(endings)) else w for name, w in raw.items()}


def from_layer(source: Callable[[int], int], raw: Raw) -> Raw:
    """Layer i gets the parameters of layer source(i)."""

    def home(name: str) -> str:
        if not name.startswith("model.layers."):
            return name
        _, _, index, rest = name.split(".", 3)
        return f"model.layers.{source(int(index))}.{rest}"

    return {name: raw[home(name)] for name in raw}


def norms_swapped(raw: Raw) -> Raw:
    a, b = "input_layernorm", "post_attention_layernorm"
    return {n: raw[n.replace(a, b) if a in n else n.replace(b, a)] for n in raw}


def tied(raw: Raw) -> Raw:
    return {**raw, "lm_head.weight": raw["model.embed_tokens.weight"]}


def last_norm_again(raw: Raw) -> Raw:
    """The final norm gets the last layer's second weight."""
    last = max(n for n in raw if n.endswith("post_attention_layernorm.weight"))
    return {**raw, "model.norm.weight": raw[last]}


def gate_up_packed(x, block):
    """Rows interleaved [g0, u0, g1, u1] taken for [g..., u...]."""
    gate, up = right.project_mlp(x, block)
    packed = jnp.concatenate([gate, up], axis=-1)
    return packed[..., ::2], packed[..., 1::2]


def bfloat16_inputs(x, block):
    short = block._replace(gate_up=rounded(block.gate_up))
    return right.project_mlp(rounded(x), short)


def bfloat16_qkv(x, block):
    return right.project_qkv(rounded(x), block._replace(qkv=rounded(block.qkv)))


def rounded(x, dtype=jnp.bfloat16):
    return x.astype(dtype).astype(x.dtype)


# -- RoPE


def neighbours(x, phase):
    """Pairs (2i, 2i + 1)."""
    wide = x.astype(at_least_float32(x.dtype))
    turned = jax.lax.complex(wide[..., ::2], wide[..., 1::2]) * phase
    return jnp.stack([turned.real, turned.imag], axis=-1).reshape(x.shape).astype(x.dtype)


def halves_with_repeated_angles(x, phase):
    """rotate_half with the angles of pairs: cos and sin are repeated feature by feature."""
    cos, sin = (
        jnp.repeat(phase.real, 2, axis=-1).astype(x.dtype),
        jnp.repeat(phase.imag, 2, axis=-1).astype(x.dtype),
    )
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


def backwards(x, phase):
    return right.rotate(x, jnp.conj(phase))


def not_rotated(x, phase):
    return x


def half_rotated(x, phase):
    """Only the first half of the features, with the frequencies of a head of half the size."""
    size = x.shape[-1] // 2
    return jnp.concatenate([right.rotate(x[..., :size], phase[..., ::2]), x[..., size:]], axis=-1)


def theta(value):
    return lambda _, size: right.frequencies(value, size)


def shifted(steps):
    return lambda positions, speed, dtype: right.phases(positions + steps, speed, dtype)


def rounded_table(positions, speed, dtype):
    phase = right.phases(positions, speed, dtype)
    return jax.lax.complex(rounded(phase.real), rounded(phase.imag))


def rounded_frequencies(value, size):
    return right.frequencies(value, size).astype(jnp.bfloat16).astype(np.float64)


def reversed_frequencies(value, size):
    return right.frequencies(value, size)[::-1]


def from_the_end(positions, speed, dtype):
    return right.phases(positions.max(axis=1, keepdims=True) - positions, speed, dtype)


def both(function):
    return {"rotate_q": function, "rotate_k": function}


# -- attention


def scaled_by(factor):
    """Scores q . k * factor(D)."""
    return lambda q, k: jnp.einsum("bkgsd,bktd->bkgst", q, k) * jnp.asarray(factor(q.shape[-1]), q.dtype)


def regrouped(q, key_heads):
    """Query head h uses key head h mod K, and comes out in the place of another head."""
    return q.reshape(q.shape[0], -1, key_heads, *q.shape[2:]).swapaxes(1, 2)


# Heads taken as [G, K] where they are [K, G]: query head h uses key head h mod K.
GROUPS_FIRST = {
    "group_q": lambda q, key_heads: q.reshape(q.shape[0], -1, key_heads, *q.shape[2:]),
    "similarity": lambda q, k: jnp.einsum("bgksd,bktd->bgkst", q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), k),
    "mix": lambda weights, v: jnp.einsum("bgkst,bktd->bgksd", weights, v),
}


def seen_where(rule):
    """`rule(query, key)` decides what is seen, beside padding."""

    def seen(mask, queries):
        seen_keys = rule(queries[:, None], jnp.arange(mask.shape[1])[None, :])
        return seen_keys[None, None, None] & mask[:, None, None, None, :]

    return seen


def masked_with(value):
    def weigh(scores, seen):
        wide = at_least_float32(scores.dtype)
        return jax.nn.softmax(jnp.where(seen, scores.astype(wide), jnp.asarray(value, wide)), -1).astype(
            scores.dtype
        )

    return weigh


def softmax_in_bfloat16(scores, seen):
    return right.weigh(scores.astype(jnp.bfloat16), seen).astype(scores.dtype)


def with_a_sink(scores, seen):
    """exp / (1 + sum exp)."""
    wide = at_least_float32(scores.dtype)
    power = jnp.where(seen, jnp.exp(scores.astype(wide)), 0)
    return (power / (1 + power.sum(axis=-1, keepdims=True))).astype(scores.dtype)


def over_queries(scores, seen):
    """A softmax along the wrong axis."""
    wide = at_least_float32(scores.dtype)
    return jax.nn.softmax(jnp.where(seen, scores.astype(wide), -1e30), axis=-2).astype(scores.dtype)


def longer_is_cooler(scores, seen):
    """Scores multiplied by log2(2 + position)."""
    length = scores.shape[-1]
    factor = jnp.log2(2 + jnp.arange(length)).astype(scores.dtype)
    return right.weigh(scores * factor[:, None], seen)


def linear_bias(scores, seen):
    """ALiBi on top of RoPE."""
    order = jnp.arange(scores.shape[-1])
    distance = (order[:, None] - order[None, :]).astype(scores.dtype)
    return right.weigh(scores - distance * jnp.asarray(0.125, scores.dtype), seen)


def rotated_values(v, phase):
    return right.rotate(v, phase)


# -- the cache


def slot_before(buffer, new, filled):
    return right.store(buffer, new, filled - 1 if new.shape[2] == 1 else filled)


def never_stored(buffer, new, filled):
    return buffer if new.shape[2] == 1 else right.store(buffer, new, filled)


def stored_short(buffer, new, filled):
    return right.store(buffer, rounded(new), filled)


# -- MLP and residuals


def gelu(approximate):
    return lambda gate, up: jax.nn.gelu(gate, approximate=approximate) * up


def mish(gate, up):
    return gate * jnp.tanh(jax.nn.softplus(gate)) * up


def clipped(gate, up):
    return right.activate(gate, jnp.clip(up, -1, 1))


def times(factor):
    return lambda x, update, normed: x + update * jnp.asarray(factor, x.dtype)


NORMS = ("normalize_in", "normalize_mid", "normalize_out")
_ONLY_UPDATE = {"add_attention": lambda x, update, normed: update}

BUGS = (
    # Embedding and head.
    Bug("embedding_scaled", "embed_scaled", {"look_up": scaled_embedding}),
    Bug(
        "embedding_next_row",
        "embed_off_by_one",
        {"look_up": lambda t, ids: right.look_up(t, jnp.maximum(ids - 1, 0))},
    ),
    Bug("head_tied", "head_tied", change=tied),
    Bug("head_softcap", "head_softcapped", {"unembed": softcapped}, variation="added where there is none"),
    Bug("head_softcap_50", "head_softcapped", {"unembed": partial(softcapped, cap=50.0)}, variation="cap 50"),
    Bug("head_scaled_8", "head_scaled", {"unembed": lambda x, w: right.unembed(x, w) / 8}, variation="/ 8"),
    Bug(
        "head_scaled_16",
        "head_scaled",
        {"unembed": lambda x, w: right.unembed(x, w) / 16},
        variation="/ 16",
    ),
    Bug("head_bfloat16", "head_rounded", {"unembed": lambda x, w: rounded(right.unembed(x, w))}),
    # Norms.
    Bug(
        "eps_1e-5",
        "eps_1e5",
        {
            n: lambda x, w, e: right.normalize(x, w, 1e-5)
            for n in ("normalize_in", "normalize_mid", "normalize_out")
        },
    ),
    Bug(
        "eps_0",
        "eps_1e12",
        {"normalize_mid": lambda x, w, e: right.normalize(x, w, 0.0)},
        variation="0, one norm",
    ),
    Bug(
        "eps_3e-6",
        "eps_1e5",
        {"normalize_in": lambda x, w, e: right.normalize(x, w, 3e-6)},
        variation="3e-6, one norm",
    ),
    Bug(
        "eps_beside_the_root",
        "norm_eps_outside",
        dict.fromkeys(NORMS, eps_beside_the_root),
    ),
    Bug("norm_centred", "norm_centered", dict.fromkeys(NORMS, centred)),
    Bug(
        "norm_plus_one",
        "norm_plus_one",
        {
            n: lambda x, w, e: right.normalize(x, w + 1, e)
            for n in ("normalize_in", "normalize_mid", "normalize_out")
        },
    ),
    Bug("norm_weights_swapped", "norm_weights_swapped", change=norms_swapped),
    Bug(
        "norm_weight_ignored",
        "norm_weight_ignored",
        {"normalize_mid": lambda x, w, e: right.normalize(x, jnp.ones_like(w), e)},
    ),
    Bug(
        "norm_bfloat16",
        "norm_narrow",
        dict.fromkeys(NORMS, squares_in_bfloat16),
    ),
    Bug("final_norm_missing", "final_norm_missing", {"normalize_out": lambda x, w, e: x}),
    Bug(
        "final_norm_twice",
        "final_norm_twice",
        {"normalize_out": lambda x, w, e: right.normalize(right.normalize(x, w, e), w, e)},
    ),
    # Projections and layout.
    Bug("q_bias_missing", "q_bias_missing", change=biases(np.zeros_like, "q")),
    Bug("k_bias_missing", "k_bias_missing", change=biases(np.zeros_like, "k")),
    Bug("v_bias_missing", "v_bias_missing", change=biases(np.zeros_like, "v")),
    Bug("all_biases_missing", "qkv_biases_missing", change=biases(np.zeros_like, *"qkv")),
    Bug("q_transposed", "q_transposed", change=weights(np.transpose, "q_proj")),
    Bug("o_transposed", "o_transposed", change=weights(np.transpose, "o_proj")),
    Bug("q_head_dimension_first", "q_heads_reshaped", {"project_qkv": head_dimension_first}),
    Bug("qkv_bfloat16_inputs", "matmul_bfloat16", {"project_qkv": bfloat16_qkv}, variation="one matmul"),
    Bug("mlp_bfloat16_inputs", "matmul_bfloat16", {"project_mlp": bfloat16_inputs}, variation="one matmul"),
    # RoPE.
    Bug("rope_neighbours", "rope_interleaved", both(neighbours)),
    Bug("rope_halves_repeated", "rope_table_mismatch", both(halves_with_repeated_angles)),
    Bug("theta_1e4", "theta_1e4", {"frequencies": theta(1e4)}),
    Bug("theta_5e5", "theta_5e5", {"frequencies": theta(5e5)}, variation="5e5"),
    Bug("theta_123456", "theta_1e4", {"frequencies": theta(123456.0)}, variation="123456"),
    Bug("rope_frequencies_bfloat16", "frequencies_in_bfloat16", {"frequencies": rounded_frequencies}),
    Bug("rope_table_bfloat16", "tables_in_bfloat16", {"phases": rounded_table}),
    Bug("rope_half", "rope_half_of_dims", both(half_rotated), variation="partial where it is whole"),
    Bug("rope_backwards", "rope_backwards", both(backwards)),
    Bug("rope_missing", "rope_missing", both(not_rotated)),
    Bug(
        "rope_missing_in_the_last_layer",
        "rope_missing_in_last_layer",
        both(not_rotated),
        layers=(3,),
        variation="one",
    ),
    Bug("rope_only_on_q", "rope_missing_on_keys", {"rotate_k": not_rotated}),
    Bug("rope_from_1", "positions_shifted", {"phases": shifted(1)}),
    # Attention.
    Bug("scale_missing", "scale_missing", {"similarity": scaled_by(lambda d: 1.0)}),
    Bug("scale_twice", "scale_twice", {"similarity": scaled_by(lambda d: 1 / d)}),
    Bug("scale_of_hidden", "scale_of_hidden", {"similarity": scaled_by(lambda d: 48**-0.5)}),
    Bug("scale_0.3", "scale_missing", {"similarity": scaled_by(lambda d: 0.3)}, variation="0.3"),
    Bug("heads_tiled", "gqa_tiled", GROUPS_FIRST),
    Bug("causal_missing", "causal_missing", {"visible": seen_where(lambda q, k: k >= 0)}),
    Bug(
        "sees_one_ahead",
        "causal_one_ahead",
        {"visible": seen_where(lambda q, k: k <= q + 1)},
        variation="j <= i + 1",
    ),
    Bug("not_itself", "causal_strict", {"visible": seen_where(lambda q, k: k < q)}, variation="j < i"),
    Bug("mask_of_minus_10", "mask_multiplied", {"weigh": masked_with(-10.0)}),
    Bug("softmax_bfloat16", "softmax_narrow", {"weigh": softmax_in_bfloat16}),
    Bug("phantom_key", "softmax_sink", {"weigh": with_a_sink}),
    Bug("window_8", "window_512", {"visible": seen_where(lambda q, k: (k <= q) & (k > q - 8))}, variation="8"),
    # MLP, residuals, wiring.
    Bug("gate_up_swapped", "gate_up_swapped", {"activate": lambda gate, up: right.activate(up, gate)}),
    Bug("gate_up_packed", "gate_up_packing", {"project_mlp": gate_up_packed}),
    Bug("gelu_erf", "activation_gelu", {"activate": gelu(False)}),
    Bug("gelu_tanh", "activation_gelu_tanh", {"activate": gelu(True)}),
    Bug("attention_not_added", "attention_residual_missing", _ONLY_UPDATE),
    Bug(
        "mlp_not_added",
        "mlp_residual_missing",
        {"add_mlp": lambda x, update, normed: update},
        variation="MLP",
    ),
    Bug("parallel_mlp", "sequential_as_parallel", {"mlp_input": lambda x, middle: x}),
    Bug("residual_0.5", "residual_multiplied", {"add_attention": times(0.5), "add_mlp": times(0.5)}),
    Bug("residual_0.22", "residual_multiplied", {"add_mlp": times(0.22)}, variation="0.22, the MLP's"),
    Bug("layers_1_2_swapped", "layers_swapped", change=partial(from_layer, lambda i: {1: 2, 2: 1}.get(i, i))),
    Bug(
        "layers_off_by_one",
        "layers_shifted",
        change=partial(from_layer, lambda i: max(i - 1, 0)),
        variation="i-1",
    ),
    # The cache.
    Bug("step_at_0", "decode_position_zero", {"places": lambda at, filled: at * 0 if filled else at}, cached=True),
    Bug(
        "step_one_ahead",
        "decode_position_ahead",
        {"places": lambda at, filled: at + 1 if filled else at},
        cached=True,
    ),
    Bug("slot_before", "cache_slot_overwritten", {"store_k": slot_before, "store_v": slot_before}, cached=True),
    Bug("key_slot_before", "cache_keys_overwritten", {"store_k": slot_before}, cached=True),
    Bug("steps_not_stored", "cache_not_written", {"store_k": never_stored, "store_v": never_stored}, cached=True),
    Bug("cache_bfloat16", "cache_in_bfloat16", {"store_k": stored_short, "store_v": stored_short}, cached=True),
    Bug(
        "chunk_from_0",
        "chunk_aligned_left",
        {"visible": lambda mask, q: right.visible(mask, q - q[0])},
        cached=True,
    ),
    # Two at once, in one operation.
    Bug(
        "rope_neighbours_theta_1e4",
        "rope_interleaved+theta_1e4",
        {**both(neighbours), "frequencies": theta(1e4)},
    ),
    Bug(
        "scale_missing_causal_missing",
        "scale_missing+causal_missing",
        {"similarity": scaled_by(lambda d: 1.0), "visible": seen_where(lambda q, k: k >= 0)},
    ),
    Bug(
        "q_transposed_without_bias",
        "q_transposed+q_bias_missing",
        change=lambda raw: weights(np.transpose, "q_proj")(biases(np.zeros_like, "q")(raw)),
    ),
    # In no catalogue.
    Bug("norm_by_mean_absolute", None, {"normalize_in": mean_absolute, "normalize_mid": mean_absolute}),
    Bug("norm_unbiased", None, dict.fromkeys(NORMS, unbiased)),
    Bug("final_norm_of_the_last_layer", None, change=last_norm_again),
    Bug("embedding_normalized", None, {"look_up": unit_embedding}),
    Bug("logits_are_log_probabilities", None, {"unembed": log_probabilities}),
    Bug("rope_frequencies_reversed", None, {"frequencies": reversed_frequencies}),
    Bug("rope_from_the_end", None, {"phases": from_the_end}),
    Bug("values_rotated", None, {"values": rotated_values}),
    Bug("softmax_over_queries", None, {"weigh": over_queries}),
    Bug("scores_grow_with_position", None, {"weigh": longer_is_cooler}),
    Bug("query_heads_regrouped", None, {"group_q": regrouped}),
    Bug("linear_bias", None, {"weigh": linear_bias}),
    Bug("first_key_hidden", None, {"visible": seen_where(lambda q, k: (k <= q) & ((k > 0) | (q == 0)))}),
    Bug("context_heads_reversed", None, {"project_out": heads_reversed}),
    Bug("activation_mish", None, {"activate": mish}),
    Bug("up_clipped", None, {"activate": clipped}),
    Bug(
        "residual_of_the_normed",
        "residual_from_norm",
        {"add_attention": lambda x, update, normed: normed + update},
    ),
)

BY_NAME = {bug.name: bug for bug in BUGS}
