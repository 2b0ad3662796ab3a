"""Ports of Llama 3, Gemma 2 and OLMo 2 in plain jax.numpy: nothing of the built-in decoder.

Each can be built with a bug in it, written as a porter would write it.
"""

from __future__ import annotations

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from harness.run.tapping import Tapped
from harness.taps import DIMS


class Port:
    """Heads first, [B, H, S, D]; matrices as stored, [output, input]; layers in a Python loop.

    Args:
        bug: what it does wrong; nothing where it is empty.
    """

    kinds = 1  # of layers, which alternate; those of one kind are one compiled function

    def __init__(self, config, tensors, dtype, bug=""):
        self.config, self.dtype, self.bug = config, dtype, bug
        self.w = {
            name: jax.device_put(np.asarray(value, np.float64).astype(dtype)) for name, value in tensors.items()
        }
        self.wide = jnp.float64 if dtype == jnp.float64 else jnp.float32

    @classmethod
    def load(cls, directory, config, dtype, mesh=None, *, bug=""):
        return cls(config, load_file(directory / "model.safetensors"), dtype, bug)

    def init_cache(self, batch, length, dtype):
        shape = batch, self.config["num_key_value_heads"], length, self.head_dim
        empty = jnp.zeros(shape, dtype)
        return [(empty, empty)] * self.config["num_hidden_layers"], 0

    @property
    def head_dim(self):
        return self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]

    def forward(self, ids, positions, mask, cache, tap):
        stored, filled = cache or ([None] * self.config["num_hidden_layers"], 0)
        x, after = tap("embed", self.embed(self.w["model.embed_tokens.weight"][ids])), []
        for index, past in enumerate(stored):
            layer, weights = self._compiled(index % self.kinds), self._weights(index)
            x, past = layer(tap, f"layers.{index}", weights, x, positions, mask, past, filled)
            after.append(past)
        x = tap("final_norm", self.norm("model.norm", x))
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return self.logits(x @ head.T), None if cache is None else (after, filled + ids.shape[1])

    @functools.cache  # noqa: B019
    def _compiled(self, index):
        def run(tap, weights, *args):
            port = copy.copy(self)
            port.w = weights
            return port.layer(index, *args, lambda name, value: tap(name.rpartition(".")[2], value))

        if self.bug and type(self) in PORTS.values():  # compiled as a whole it is slower
            return lambda tap, stage, *args: run(lambda kind, value: tap(f"{stage}.{kind}", value), *args)
        return Tapped(run, frozenset(DIMS))

    def _weights(self, index):
        """Of one layer, under the names of the first of its kind."""
        here, first = f"model.layers.{index}.", f"model.layers.{index % self.kinds}."
        return {first + name.removeprefix(here): w for name, w in self.w.items() if name.startswith(here)}

    def embed(self, x):
        return x

    def logits(self, x):
        return x

    def layer(self, index, x, positions, mask, past, filled, tap):
        at = f"model.layers.{index}"
        y = self.norm(f"{at}.input_layernorm", x)
        update, past = self.attend(index, tap(f"layers.{index}.attn_norm", y), positions, mask, past, filled, tap)
        x = tap(f"layers.{index}.resid_mid", x + update)
        y = tap(f"layers.{index}.mlp_norm", self.norm(f"{at}.post_attention_layernorm", x))
        return tap(f"layers.{index}.resid_post", x + self.mlp(index, y, tap)), past

    def norm(self, name, x):
        y = x.astype(self.wide)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return y.astype(x.dtype) * self.w[f"{name}.weight"]

    def attend(self, index, x, positions, mask, past, filled, tap):
        def linear(name):
            return x @ self.w[f"model.layers.{index}.self_attn.{name}_proj.weight"].T

        def heads(name, value):  # [B, S, H D] -> [B, H, S, D]
            split = value.reshape(*value.shape[:2], -1, self.head_dim)
            return tap(f"layers.{index}.{name}", split).swapaxes(1, 2)

        def shown(name, value):
            return tap(f"layers.{index}.{name}", value.swapaxes(1, 2)).swapaxes(1, 2)

        q, k, v = heads("q", linear("q")), heads("k", linear("k")), heads("v", linear("v"))
        q, k = self.given(index, q, k, positions, shown)
        if past is not None:
            k = shown("cache_k", jax.lax.dynamic_update_slice(past[0], k, (0, 0, filled, 0)))
            v = shown("cache_v", jax.lax.dynamic_update_slice(past[1], v, (0, 0, filled, 0)))
            past = k, v
        groups = q.shape[1] // k.shape[1]
        scores = self.score(jnp.matmul(q, jnp.repeat(k, groups, 1).swapaxes(2, 3)))
        query = (filled + jnp.arange(q.shape[2]))[:, None]
        seen = self.seen(index, query, jnp.arange(k.shape[2])[None]) & mask[:, None, None, : k.shape[2]]
        scores = self.masked(scores, seen).astype(self.wide)
        probs = tap(f"layers.{index}.probs", jax.nn.softmax(scores, -1).astype(x.dtype))
        context = shown("context", jnp.matmul(probs, jnp.repeat(v, groups, 1))).swapaxes(1, 2)
        out = context.reshape(*x.shape[:2], -1) @ self.w[f"model.layers.{index}.self_attn.o_proj.weight"].T
        return tap(f"layers.{index}.attn_out", out), past

    def given(self, index, q, k, positions, shown):
        return shown("q_rope", self.turn(q, positions)), shown("k_rope", self.turn(k, positions))

    def masked(self, scores, seen):
        return jnp.where(seen, scores, jnp.finfo(scores.dtype).min)

    def score(self, scores):
        return scores * jnp.asarray(self.head_dim**-0.5, scores.dtype)

    def seen(self, index, query, key):
        return key <= query

    def speeds(self):
        return self.config["rope_theta"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)

    def turn(self, x, positions):
        angle = positions[:, None, :, None].astype(self.wide) * jnp.asarray(self.speeds(), self.wide)
        cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

    def activate(self, x):
        return jax.nn.silu(x.astype(self.wide)).astype(x.dtype)

    def mlp(self, index, x, tap):
        gate, up, down = (
            self.w[f"model.layers.{index}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        gate, up = tap(f"layers.{index}.gate", x @ gate.T), tap(f"layers.{index}.up", x @ up.T)
        return tap(f"layers.{index}.mlp_out", tap(f"layers.{index}.act", self.activate(gate) * up) @ down.T)


class Llama3(Port):
    """Frequencies in three bands."""

    def speeds(self):
        plain, given = super().speeds(), self.config["rope_scaling"]
        if self.bug == "unscaled":
            return plain
        if self.bug == "all divided":
            return plain / given["factor"]
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        if self.bug == "bands swapped":
            low, high = high, low
        wavelength = 2 * math.pi / plain
        smooth = (given["original_max_position_embeddings"] / wavelength - low) / (high - low)
        smooth = np.clip(smooth, 0, 1)
        return (1 - smooth) * plain / given["factor"] + smooth * plain


class Gemma2(Port):
    """Norms on both sides with 1 + weight, a scaled embedding, caps, and windows in every other layer."""

    kinds = 2

    def embed(self, x):
        factor = self.config["hidden_size"] ** 0.5
        if self.bug == "embedding not scaled":
            return x
        if self.bug == "factor rounded":
            factor = float(np.float32(jnp.bfloat16(factor)))
        return x * jnp.asarray(factor, x.dtype)

    def logits(self, x):
        cap = self.config["final_logit_softcapping"]
        if self.bug == "head scaled":
            x = x * jnp.asarray(self.config["hidden_size"] ** 0.5, x.dtype)
        return x if self.bug == "logits not capped" else cap * jnp.tanh(x / cap)

    def norm(self, name, x):
        if self.bug == "no norm after" and ("post_attention" in name or "post_feedforward" in name):
            return x
        swapped = {"post_attention": "pre_feedforward", "pre_feedforward": "post_attention"}
        for one, other in swapped.items() if self.bug == "norms swapped" else ():
            if one in name:
                name = name.replace(one, other)
                break
        y = x.astype(self.wide)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        weight = self.w[f"{name}.weight"].astype(self.wide)
        offset = {"without 1": 0.0, "with 2": 2.0}.get(self.bug, 1.0)
        return (y * (offset + weight)).astype(x.dtype)

    def layer(self, index, x, positions, mask, past, filled, tap):
        at, here = f"model.layers.{index}", f"layers.{index}"
        y = tap(f"{here}.attn_norm", self.norm(f"{at}.input_layernorm", x))
        y, past = self.attend(index, y, positions, mask, past, filled, tap)
        x = tap(
            f"{here}.resid_mid", self.added(x, y, f"{at}.post_attention_layernorm", f"{here}.attn_post_norm", tap)
        )
        y = tap(f"{here}.mlp_norm", self.norm(f"{at}.pre_feedforward_layernorm", x))
        y = self.mlp(index, y, tap)
        y = self.added(x, y, f"{at}.post_feedforward_layernorm", f"{here}.mlp_post_norm", tap)
        return tap(f"{here}.resid_post", y), past

    def added(self, x, y, norm, name, tap):
        if self.bug == "normed after the sum":
            return self.norm(norm, x + tap(name, y))
        y = tap(name, self.norm(norm, y))
        return x + y

    def score(self, scores):
        scale = self.config["query_pre_attn_scalar"] if self.bug != "scale of head_dim" else self.head_dim
        scores = scores * jnp.asarray(scale**-0.5, scores.dtype)
        return scores if self.bug in ("scores not capped", "capped after the mask") else self.capped(scores)

    def capped(self, scores):
        cap = self.config["attn_logit_softcapping"]
        return cap * jnp.tanh(scores / cap)

    def masked(self, scores, seen):
        scores = super().masked(scores, seen)
        return self.capped(scores) if self.bug == "capped after the mask" else scores

    def seen(self, index, query, key):
        width = self.config["sliding_window"] + (self.bug == "window wider")
        windowed = index % 2 == (1 if self.bug == "windows in the others" else 0)
        windowed = windowed and self.bug != "no window"
        return (key <= query) & (key > query - width) if windowed else key <= query

    def activate(self, x):
        exact = self.bug == "exact GELU"
        if self.bug == "SiLU":
            return super().activate(x)
        return jax.nn.gelu(x.astype(self.wide), approximate=not exact).astype(x.dtype)


class Olmo2(Port):
    """No norm before, one after each; queries and keys normed over all heads together."""

    def norm(self, name, x):
        if self.bug == "no norm after" and ".layers." in name and "self_attn" not in name:
            return x
        y = x.astype(self.wide)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        if self.bug == "cast early":
            return y.astype(x.dtype) * self.w[f"{name}.weight"]
        return (y * self.w[f"{name}.weight"].astype(self.wide)).astype(x.dtype)

    def layer(self, index, x, positions, mask, past, filled, tap):
        at, here = f"model.layers.{index}", f"layers.{index}"
        first, last = f"{at}.post_attention_layernorm", f"{at}.post_feedforward_layernorm"
        before = self.norm if self.bug == "normed before" else lambda name, value: value
        after = self.norm if self.bug != "normed before" else lambda name, value: value
        y, past = self.attend(index, before(first, x), positions, mask, past, filled, tap)
        x = tap(f"{here}.resid_mid", x + tap(f"{here}.attn_post_norm", after(first, y)))
        y = tap(f"{here}.mlp_post_norm", after(last, self.mlp(index, before(last, x), tap)))
        return tap(f"{here}.resid_post", x + y), past

    def given(self, index, q, k, positions, shown):
        def normed(name, value):
            skipped = {"no norm of queries": "q_norm", "no norm of keys": "k_norm", "no norms of both": name}
            if skipped.get(self.bug) == name:
                return shown(name, value)
            if self.bug == "normed head by head":
                y = value / jnp.sqrt((value * value).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
                weight = self.w[f"model.layers.{index}.self_attn.{name}.weight"]
                return shown(name, y * weight.reshape(-1, 1, self.head_dim))
            flat = value.swapaxes(1, 2).reshape(value.shape[0], value.shape[2], -1)
            flat = self.norm(f"model.layers.{index}.self_attn.{name}", flat)
            split = flat.reshape(value.shape[0], value.shape[2], -1, self.head_dim)
            return shown(name, split.swapaxes(1, 2))

        if self.bug == "normed after RoPE":
            q, k = normed("q_norm", self.turn(q, positions)), normed("k_norm", self.turn(k, positions))
            return shown("q_rope", q), shown("k_rope", k)
        return super().given(index, normed("q_norm", q), normed("k_norm", k), positions, shown)

    def turn(self, x, positions):
        angle = positions[:, None, :, None].astype(self.wide) * jnp.asarray(self.speeds(), self.wide)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        a, b = (part.astype(self.wide) for part in jnp.split(x, 2, -1))
        if self.bug == "neighbours":
            a, b = x[..., ::2].astype(self.wide), x[..., 1::2].astype(self.wide)
            both = jnp.stack((a * cos - b * sin, b * cos + a * sin), -1).reshape(x.shape)
            return both.astype(x.dtype)
        return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), -1).astype(x.dtype)

    def speeds(self):
        theta = 1e4 if self.bug == "theta" else self.config["rope_theta"]
        return theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)


# By the embedded golden: the port, and by bug the mutant of the catalogue that it is.
PORTS = {"llama3": Llama3, "gemma2": Gemma2, "olmo2": Olmo2}
BUGS = {
    "llama3": {
        "unscaled": "rope_scaling_ignored",
        "all divided": "rope_scaled_linearly",
        "bands swapped": "rope_bands_swapped",
    },
    "gemma2": {
        "embedding not scaled": "embed_scale_missing",
        "factor rounded": "embed_scale_rounded",
        "head scaled": "head_scaled_as_embedding",
        "logits not capped": "logit_cap_missing",
        "no norm after": "post_norms_missing",
        "norms swapped": "post_norm_weights_swapped",
        "without 1": "norm_plus_one_missing",
        "with 2": "norm_plus_one_doubled",
        "scale of head_dim": "scale_of_head_dim",
        "scores not capped": "score_cap_missing",
        "capped after the mask": "score_cap_after_mask",
        "normed after the sum": "post_norms_after_sum",
        "window wider": "window_off_by_one_wider",
        "windows in the others": "window_layers_swapped",
        "no window": "window_missing",
        "exact GELU": "gelu_of_another_kind",
        "SiLU": "gelu_as_silu",
    },
    "olmo2": {
        "no norm after": "post_norms_missing",
        "normed before": "post_norms_as_pre",
        "normed after RoPE": "qk_norms_after_rope",
        "normed head by head": "qk_norm_by_head",
        "no norms of both": "qk_norms_missing",
        "no norm of queries": "q_norm_missing",
        "no norm of keys": "k_norm_missing",
        "theta": "theta_1e4",
        "neighbours": "rope_neighbours_for_halves",
    },
}
