"""Ports of Llama 3, Gemma 2 and OLMo 2 in plain jax.numpy: nothing of the built-in decoder.

Each can be built with a bug in it, written as a porter would write it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.families.independent_port import Port


class Llama3(Port):
    """Frequencies in three bands."""

    in_parts = True

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

    in_parts = True
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

    in_parts = True

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
