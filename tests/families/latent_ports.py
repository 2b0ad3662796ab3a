"""Ports of DeepSeek-V3 with dense MLPs, in plain jax.numpy: one with an absorbed product, one that caches heads.

Neither has anything of the built-in decoder. Each can be built with a bug in it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.families.independent_port import Port

EPS = 1e-6


class Absorbed(Port):
    """Keys and values are never made: queries are taken into the space of the latents, and back from there.

    Its cache is one array a layer, with the latent of a token and behind it the turned part of its key.
    """

    without = ("kv",)

    def init_cache(self, batch, length, dtype):
        c = self.config
        empty = jnp.zeros((batch, length, c["kv_lora_rank"] + c["qk_rope_head_dim"]), dtype)
        return [empty] * c["num_hidden_layers"], 0

    def attend(self, index, x, positions, mask, past, filled, tap):
        c, heads, here = self.config, self.config["num_attention_heads"], f"layers.{index}"
        nope, rank = c["qk_nope_head_dim"], c["kv_lora_rank"]

        def shown(kind, value):
            return tap(f"{here}.{kind}", value)

        q = shown("q_latent", self.linear(index, "q_a_proj", x))
        q = self.linear(index, "q_b_proj", shown("q_latent_norm", self.latent_norm(index, "q_a_layernorm", q)))
        q = shown("q", q.reshape(*x.shape[:2], heads, -1))
        both = self.linear(index, "kv_a_proj_with_mqa", x)
        latent, shared = shown("kv_latent", both[..., :rank]), shown("k_pe", both[..., rank:])
        latent = shown("kv_latent_norm", self.latent_norm(index, "kv_a_layernorm", latent))
        turned = self.turn(q[..., nope:], positions[..., None])
        q = shown("q_rope", jnp.concatenate([q[..., :nope], turned], -1))
        shared = shown("k_pe_rope", self.turn(shared, positions))
        context, past = self.attended(index, q, latent, shared, mask, past, filled, shown)
        out = shown("context", context).reshape(*x.shape[:2], -1)
        return shown("attn_out", self.linear(index, "o_proj", out)), past

    def attended(self, index, q, latent, shared, mask, past, filled, shown):
        nope, rank, wide = self.config["qk_nope_head_dim"], latent.shape[-1], self.wide
        if past is not None:
            past = self.written(past, jnp.concatenate([latent, shared], -1), filled)
            latent, shared = shown("cache_latent", past[..., :rank]), shown("cache_k_pe", past[..., rank:])
            past = jnp.concatenate([latent, shared], -1)
        keys, values = self.matrices(index)
        absorbed = jnp.einsum("bqhn,hnr->bqhr", q[..., :nope], keys)
        scores = jnp.einsum("bqhr,bkr->bhqk", absorbed, latent, preferred_element_type=wide)
        scores += jnp.einsum("bqhp,bkp->bhqk", q[..., nope:], shared, preferred_element_type=wide)
        probs = self.probabilities(scores, mask, filled, q.dtype, shown)
        return jnp.einsum("bqhr,hvr->bqhv", jnp.einsum("bhqk,bkr->bqhr", probs, latent), values), past

    def matrices(self, index):
        """By head, what makes the keys of a latent, and what makes the values: [head, output, kv_rank]."""
        c = self.config
        both = self.weight(index, "kv_b_proj").reshape(c["num_attention_heads"], -1, c["kv_lora_rank"])
        if self.bug == "values before keys":
            return both[:, c["v_head_dim"] :], both[:, : c["v_head_dim"]]
        return both[:, : c["qk_nope_head_dim"]], both[:, c["qk_nope_head_dim"] :]

    def probabilities(self, scores, mask, filled, dtype, shown):
        query, key = (filled + jnp.arange(scores.shape[2]))[:, None], jnp.arange(scores.shape[3])[None]
        seen = (key <= query) & mask[:, None, None, : scores.shape[3]]
        scores = jnp.where(seen, scores * self.scale(), jnp.finfo(scores.dtype).min)
        return shown("probs", jax.nn.softmax(scores.astype(self.wide), -1).astype(dtype))

    def scale(self):
        c = self.config
        longer = 0.1 * c["rope_scaling"]["mscale_all_dim"] * math.log(c["rope_scaling"]["factor"]) + 1
        squared = {"mscale once": longer, "mscale missing": 1.0}.get(self.bug, longer**2)
        size = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
        size = c["qk_rope_head_dim"] if self.bug == "scale of the turned part" else size
        return squared / math.sqrt(size)

    def turn(self, x, positions):
        """Neighbours, which are left as halves."""
        speeds, longer = self.speeds()
        angle = positions[..., None].astype(self.wide) * jnp.asarray(speeds, self.wide)
        cos, sin = ((f(angle) * longer).astype(x.dtype) for f in (jnp.cos, jnp.sin))
        a, b = jnp.split(x, 2, -1) if self.bug == "halves" else (x[..., ::2], x[..., 1::2])
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def speeds(self):
        """YaRN's, and its factor (Peng et al. 2023)."""
        c, given = self.config, self.config["rope_scaling"]
        theta, dims, factor = c["rope_theta"], c["qk_rope_head_dim"], given["factor"]
        plain = theta ** (-np.arange(0, dims, 2) / dims)
        ends = [
            dims
            * math.log(given["original_max_position_embeddings"] / (2 * math.pi * turns))
            / 2
            / math.log(theta)
            for turns in (32, 1)
        ]
        first, last = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), dims - 1)
        divided = np.clip((np.arange(dims // 2) - first) / (last - first), 0, 1)
        one, other = (0.1 * given[name] * math.log(factor) + 1 for name in ("mscale", "mscale_all_dim"))
        return plain * (1 - divided) + plain / factor * divided, one / other

    def latent_norm(self, index, name, x):
        y = x.astype(self.wide)
        eps = 0.01 if self.bug == "eps of the latents" else EPS
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + eps)
        return y.astype(x.dtype) * self.weight(index, name)

    def written(self, past, new, filled):
        start = filled - (filled > 0) if self.bug == "a slot early" else filled
        return jax.lax.dynamic_update_slice(past, new, (0, start, 0))

    def linear(self, index, name, x):
        y, bias = x @ self.weight(index, name).T, f"model.layers.{index}.self_attn.{name}.bias"
        return y + self.w[bias] if bias in self.w else y

    def weight(self, index, name):
        return self.w[f"model.layers.{index}.self_attn.{name}.weight"]


class Expanded(Absorbed):
    """Keys and values of every head are made once, and cached: what is cached is not what transformers caches."""

    without = ("cache_latent", "cache_k_pe")

    def init_cache(self, batch, length, dtype):
        c = self.config
        sizes = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"]
        empty = tuple(jnp.zeros((batch, length, c["num_attention_heads"], size), dtype) for size in sizes)
        return [empty] * c["num_hidden_layers"], 0

    def attended(self, index, q, latent, shared, mask, past, filled, shown):
        nope, heads = self.config["qk_nope_head_dim"], q.shape[2]
        kv = shown("kv", self.linear(index, "kv_b_proj", latent).reshape(*q.shape[:2], heads, -1))
        shared = jnp.broadcast_to(shared[:, :, None], (*q.shape[:3], shared.shape[-1]))
        k, v = jnp.concatenate([kv[..., :nope], shared], -1), kv[..., nope:]
        if past is not None:
            k, v = past = tuple(
                jax.lax.dynamic_update_slice(held, new, (0, filled, 0, 0))
                for held, new in zip(past, (k, v), strict=True)
            )
        probs = self.probabilities(jnp.einsum("bqhd,bkhd->bhqk", q, k), mask, filled, q.dtype, shown)
        return jnp.einsum("bhqk,bkhv->bqhv", probs, v), past
