"""A second, independent Qwen2 port in plain jax.numpy: no code and no layout of the built-in decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tests.second_port.parameters import Block, Change, Parameters, read
from tests.second_port.parts import PARTS, Parts

ATTENTION = ("attn_norm", "q", "k", "v", "q_rope", "k_rope", "probs", "context", "attn_out", "resid_mid")
MLP = ("mlp_norm", "gate", "up", "act", "mlp_out", "resid_post")
CACHE = ("cache_k", "cache_v")
KINDS = frozenset(ATTENTION + MLP)


class SecondPort:
    """Layers in a Python loop, taps called as they come.

    Args:
        config: the checkpoint's config.json.
        parameters: in the port's own layout.
        parts: the arithmetic of each layer; that of layer 0 also serves outside the layers.
    """

    def __init__(
        self, config, parameters: Parameters, parts: Callable[[int], Parts] = lambda layer: PARTS
    ) -> None:
        self.config, self.parameters, self.parts = config, parameters, parts

    @classmethod
    def load(cls, directory, config, dtype, mesh, *, parts=lambda layer: PARTS, change: Change = lambda raw: raw):
        return cls(config, read(directory, config, dtype, change), parts)

    def init_cache(self, batch, length, dtype):
        """Keys and values of every layer, [B, K, T, D], and how many slots are filled."""
        heads, key_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        empty = jnp.zeros((batch, key_heads, length, self.config["hidden_size"] // heads), dtype)
        return 0, [(empty, empty)] * self.config["num_hidden_layers"]

    def forward(self, input_ids, positions, mask, cache, tap):
        weights, outside = self.parameters, self.parts(0)
        filled, layers = cache or (0, [None] * len(weights.blocks))
        positions = outside.places(positions, filled)
        queries = filled + jnp.arange(input_ids.shape[1])
        x = tap("embed", outside.look_up(weights.table, input_ids))
        stored = []
        for index, (block, past) in enumerate(zip(weights.blocks, layers, strict=True)):
            x, past = self.layer(index, block, x, Sight(positions, mask, queries, past), tap)
            stored.append(past)
        x = tap("final_norm", outside.normalize_out(x, weights.norm_out, self.config["rms_norm_eps"]))
        after = None if cache is None else (filled + input_ids.shape[1], stored)
        return outside.unembed(x, weights.head), after

    def layer(self, index, block, x, sight, tap):
        """One layer with its taps; a port that compiles its layers wraps `run_layer` instead."""
        return run_layer(self.config, self.parts(index), partial(_under, tap, index), block, x, sight)


class Sight(NamedTuple):
    """What a layer sees beside its input."""

    positions: jax.Array  # [B, S]
    mask: jax.Array  # [B, T]
    queries: jax.Array  # [S], the slots of the new tokens
    past: tuple[jax.Array, jax.Array] | None  # [B, K, T, D] each


def _under(tap, index, kind, value):
    return tap(f"layers.{index}.{kind}", value)


def run_layer(config, parts: Parts, tap, block: Block, x, sight: Sight):
    """[B, S, E] -> [B, S, E], and the layer's part of the cache; taps by kind."""
    eps = config["rms_norm_eps"]
    normed = tap("attn_norm", parts.normalize_in(x, block.norm_in, eps))
    update, past = attend(config, parts, tap, block, normed, sight)
    middle = tap("resid_mid", parts.add_attention(x, update, normed))
    normed = tap("mlp_norm", parts.normalize_mid(parts.mlp_input(x, middle), block.norm_mid, eps))
    gate, up = parts.project_mlp(normed, block)
    active = tap("act", parts.activate(tap("gate", gate), tap("up", up)))
    return tap(
        "resid_post", parts.add_mlp(middle, tap("mlp_out", parts.project_down(active, block)), normed)
    ), past


def attend(config, parts: Parts, tap, block: Block, x, sight: Sight):
    """Attention, from the normed input to the output projection."""
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    fused = parts.project_qkv(x, block)
    pieces = jnp.split(fused, [heads, heads + key_heads], axis=1)
    q, k, v = (tap_heads(tap, name, piece) for name, piece in zip("qkv", pieces, strict=True))
    speed = parts.frequencies(config["rope_theta"], q.shape[-1])
    phase = parts.phases(sight.positions, speed, x.dtype)
    q, k = tap_heads(tap, "q_rope", parts.rotate_q(q, phase)), tap_heads(tap, "k_rope", parts.rotate_k(k, phase))
    past = sight.past
    if past is not None:
        k = tap_heads(tap, "cache_k", parts.store_k(past[0], k, sight.queries[0]))
        v = tap_heads(tap, "cache_v", parts.store_v(past[1], v, sight.queries[0]))
        past = k, v
    scores = parts.similarity(parts.group_q(q, key_heads), k)
    probs = parts.weigh(scores, parts.visible(sight.mask, sight.queries))
    probs = tap("probs", probs.reshape(x.shape[0], heads, *probs.shape[3:])).reshape(probs.shape)
    context = parts.mix(probs, parts.values(v, phase))
    context = tap_heads(tap, "context", context.reshape(x.shape[0], heads, *context.shape[3:]))
    return tap("attn_out", parts.project_out(context, block)), past


def tap_heads(tap, name, value):
    """Tap a [B, H, S, D] as the [B, S, H, D] that the golden has."""
    return turned(tap(name, turned(value)))


@jax.jit
def turned(value):
    """[B, H, S, D] <-> [B, S, H, D]."""
    return value.transpose(0, 2, 1, 3)
