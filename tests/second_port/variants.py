"""Correct variants of the second port: the same function in another way. None may be called wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from harness.run.adapters import FunctionPort, To
from harness.run.tapping import Tapped
from tests.second_port import parts as right
from tests.second_port.parameters import read
from tests.second_port.parts import PARTS, at_least_float32, primitive
from tests.second_port.port import CACHE, KINDS, SecondPort, Sight, run_layer, tap_heads


class Compiled(SecondPort):
    """Each layer in one `jax.jit`."""

    def layer(self, index, block, x, sight, tap):
        if not hasattr(self, "_layer"):
            self._layer = Tapped(partial(_compiled_layer, self.config, self.parts(index)), KINDS | set(CACHE))
        return self._layer(tap, f"layers.{index}", block, x, sight)


def _compiled_layer(config, parts, tap, block, x, sight):
    return run_layer(config, parts, tap, block, x, sight)


class Scanned(FunctionPort):
    """One `lax.scan` over the layers, checked as a function that returns its intermediates."""

    taps = {"embed": "embed", "final_norm": "final_norm"} | {kind: To(f"layers.{{i}}.{kind}") for kind in KINDS}

    def __init__(self, config, dtype, parameters):
        super().__init__(config, dtype)
        self.config, self.parameters = config, parameters

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        return cls(config, dtype, read(directory, config, dtype))

    def run(self, input_ids, positions, mask):
        weights, eps = self.parameters, self.config["rms_norm_eps"]

        def step(x, block):
            found = {}

            def keep(kind, value):
                found[kind] = value
                return value

            return run_layer(self.config, PARTS, keep, block, x, sight)[0], found

        embedded = right.look_up(weights.table, input_ids)
        sight = Sight(positions, mask, jnp.arange(input_ids.shape[1]), None)
        blocks = jax.tree.map(lambda *layers: jnp.stack(layers), *weights.blocks)
        x, found = jax.lax.scan(step, embedded, blocks)
        normed = right.normalize(x, weights.norm_out, eps)
        return right.unembed(normed, weights.head), {"embed": embedded, "final_norm": normed, **found}


class Fused(SecondPort):
    """`jax.nn.dot_product_attention`: probabilities are not exposed."""

    without = ("probs",)

    cannot = ("decode", "batch", "generation")

    def layer(self, index, block, x, sight, tap):
        def without_probs(kind, value):
            return value if kind == "probs" else tap(f"layers.{index}.{kind}", value)

        return _fused_layer(self.config, without_probs, block, x, sight), None


def _fused_layer(config, tap, block, x, sight):
    heads, key_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    normed = tap("attn_norm", right.normalize(x, block.norm_in, eps))
    pieces = jnp.split(right.project_qkv(normed, block), [heads, heads + key_heads], axis=1)
    q, k, v = (tap_heads(tap, name, piece) for name, piece in zip("qkv", pieces, strict=True))
    phase = right.phases(sight.positions, right.frequencies(config["rope_theta"], q.shape[-1]), x.dtype)
    q, k = tap_heads(tap, "q_rope", right.rotate(q, phase)), tap_heads(tap, "k_rope", right.rotate(k, phase))
    seen = right.visible(sight.mask, sight.queries)[:, 0]
    context = jax.nn.dot_product_attention(*(y.transpose(0, 2, 1, 3) for y in (q, k, v)), mask=seen)
    context = tap("context", context).transpose(0, 2, 1, 3)
    x = tap("resid_mid", x + tap("attn_out", right.project_out(context, block)))
    normed = tap("mlp_norm", right.normalize(x, block.norm_mid, eps))
    gate, up = right.project_mlp(normed, block)
    active = tap("act", right.activate(tap("gate", gate), tap("up", up)))
    return tap("resid_post", x + tap("mlp_out", right.project_down(active, block)))


@dataclass(frozen=True)
class Variant:
    """Parts of the port in another correct form, or another class."""

    name: str
    parts: dict = field(default_factory=dict)
    port: type = SecondPort
    lift: bool = False  # float32 is hard-coded in it

    def load(self, directory, config, dtype, mesh=None):
        if not self.parts:
            return self.port.load(directory, config, dtype, mesh)
        chosen = replace(PARTS, **self.parts)
        return self.port.load(directory, config, dtype, mesh, parts=lambda layer: chosen)


def everywhere(norm):
    return dict.fromkeys(("normalize_in", "normalize_mid", "normalize_out"), norm)


def in_two_halves(x, block):
    """The sum over the features in two parts, the second first."""
    half = x.shape[-1] // 2
    low = jnp.einsum("bse,hde->bhsd", x[..., :half], block.qkv[..., :half])
    return jnp.einsum("bse,hde->bhsd", x[..., half:], block.qkv[..., half:]) + low + block.qkv_bias[None, :, None]


def one_at_a_time(x, block):
    """q, k and v by their own products, heads merged and split again."""
    pieces = jnp.split(block.qkv, [block.out.shape[1]], axis=0)
    parts = [x @ w.reshape(-1, w.shape[-1]).T for w in pieces]
    split = [y.reshape(*y.shape[:2], -1, block.qkv.shape[1]).transpose(0, 2, 1, 3) for y in parts]
    return jnp.concatenate(split, axis=1) + block.qkv_bias[None, :, None]


def summed_in_float32(x, block):
    wide = at_least_float32(x.dtype)
    y = jnp.einsum("bse,hde->bhsd", x, block.qkv, preferred_element_type=wide)
    return (y + block.qkv_bias[None, :, None].astype(wide)).astype(x.dtype)


def rsqrt_norm(x, weight, eps):
    y = x.astype(at_least_float32(x.dtype))
    return weight * (y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def norm_of_the_vector(x, weight, eps):
    """sqrt(n) x / sqrt(|x|^2 + n eps)."""
    y, n = x.astype(at_least_float32(x.dtype)), x.shape[-1]
    length = jnp.sqrt(jnp.sum(jnp.square(y), axis=-1, keepdims=True) + n * eps)
    return (y * n**0.5 / length).astype(x.dtype) * weight


def frequencies_of_torch(theta, size):
    """1 / theta^(2i / D)."""
    return 1.0 / theta ** (np.arange(0, size, 2) / size)


def frequencies_by_repeated_product(theta, size):
    """Each the one before it times theta^(-2 / D)."""
    return np.cumprod(np.concatenate([[1.0], np.full(size // 2 - 1, theta ** (-2.0 / size))]))


def real_rotation(x, phase):
    """x cos + rotate_half(x) sin."""
    cos = jnp.concatenate([phase.real] * 2, axis=-1).astype(x.dtype)
    sin = jnp.concatenate([phase.imag] * 2, axis=-1).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


def scaled_afterwards(q, k):
    return jnp.einsum("bkgsd,bktd->bkgst", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype))


def scaled_on_both_sides(q, k):
    root = jnp.asarray(q.shape[-1] ** -0.25, q.dtype)
    return jnp.einsum("bkgsd,bktd->bkgst", q * root, k * root)


def added_mask(scores, seen):
    wide = at_least_float32(scores.dtype)
    return jax.nn.softmax(scores.astype(wide) + jnp.where(seen, 0.0, jnp.finfo(wide).min).astype(wide)).astype(
        scores.dtype
    )


def cut_after_exp(scores, seen):
    """exp of everything, then zero where nothing is to be seen."""
    wide = at_least_float32(scores.dtype)
    y = scores.astype(wide)
    power = jnp.where(seen, jnp.exp(y - jax.lax.stop_gradient(y.max(axis=-1, keepdims=True))), 0)
    return (power / power.sum(axis=-1, keepdims=True)).astype(scores.dtype)


def logarithmic(scores, seen):
    wide = at_least_float32(scores.dtype)
    return jnp.exp(jax.nn.log_softmax(jnp.where(seen, scores.astype(wide), -jnp.inf))).astype(scores.dtype)


def repeated_values(weights, v):
    """Values repeated for every query head, instead of query heads grouped."""
    heads = weights.reshape(weights.shape[0], -1, *weights.shape[3:])
    mixed = jnp.matmul(heads, jnp.repeat(v, weights.shape[2], axis=1))
    return mixed.reshape(*weights.shape[:3], *mixed.shape[2:])


def by_tanh(gate, up):
    """sigmoid(x) = (1 + tanh(x / 2)) / 2."""
    return up * (gate * (0.5 * (1 + jnp.tanh(gate * 0.5))))


def gathered(table, ids):
    return jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype) @ table


VARIANTS = (
    Variant("eager", vars(primitive(PARTS))),
    Variant("jit", port=Compiled),
    Variant("scan over layers", port=Scanned),
    Variant("jax.nn.dot_product_attention", port=Fused, lift=True),
    Variant("another summation order", {"project_qkv": in_two_halves}),
    Variant("query and key-value projections apart", {"project_qkv": one_at_a_time}),
    Variant("sums in float32", {"project_qkv": summed_in_float32}),
    Variant("rsqrt", everywhere(rsqrt_norm)),
    Variant("norm of the vector", everywhere(norm_of_the_vector)),
    Variant("inverse frequencies as torch has them", {"frequencies": frequencies_of_torch}),
    Variant("inverse frequencies by a running product", {"frequencies": frequencies_by_repeated_product}),
    Variant("rotate_half", {"rotate_q": real_rotation, "rotate_k": real_rotation}),
    Variant("scores scaled afterwards", {"similarity": scaled_afterwards}),
    Variant("scores scaled on both sides", {"similarity": scaled_on_both_sides}),
    Variant("additive mask", {"weigh": added_mask}),
    Variant("mask after exp", {"weigh": cut_after_exp}),
    Variant("log-softmax", {"weigh": logarithmic}),
    Variant("values repeated", {"mix": repeated_values}),
    Variant("silu by tanh", {"activate": by_tanh}),
    Variant("silu of jax.nn", {"activate": lambda gate, up: jax.nn.silu(gate) * up}),
    Variant("embedding by a product with one-hot rows", {"look_up": gathered}),
    Variant("residual added in the other order", {"add_mlp": lambda x, update, normed: update + x}),
)
