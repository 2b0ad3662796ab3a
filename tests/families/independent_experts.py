"""Ports of Qwen3-MoE and DeepSeek-V3 in plain jax.numpy, with bugs as a porter would write them.

Every token gathers the matrices of the experts that it goes to; nothing of the built-in decoder is used.
"""

from __future__ import annotations

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.families.independent_port import Port


class Mixture(Port):
    """Layers of which some have experts in place of the MLP."""

    kinds = 2

    def _compiled(self, index):
        """With a bug it runs operation by operation: what is compiled so serves all bugs."""
        if not self.bug:
            return super()._compiled(index)

        def run(tap, at, weights, *args):
            port = copy.copy(self)
            port.w = weights
            return port.layer(index, *args, lambda name, value: tap(f"{at}.{name.rpartition('.')[2]}", value))

        return run

    def has(self, bug):
        """Whether it does that wrong: `bug` names several, with a plus between them."""
        return bug in self.bug.split(" + ")

    def mlp(self, index, x, tap):
        at = f"model.layers.{index}.mlp"
        if f"{at}.gate.weight" not in self.w:
            return super().mlp(index, x, tap)
        here = f"layers.{index}"
        weights = self.route(index, x, tap)
        if self.has("next expert"):
            weights = jnp.roll(weights, 1, axis=-1)
        if self.has("capacity"):
            weights = self.with_room(weights, jnp.ones(x.shape[:2], bool))
        weights = tap(f"{here}.routing", weights)
        weight, chosen = jax.lax.top_k(weights, self.config["num_experts_per_tok"])
        names = ("up", "gate", "down") if self.has("gate for up") else ("gate", "up", "down")
        gate, up, down = (self.stacked(f"{at}.experts", name)[chosen] for name in names)  # [B, S, k, O, I]
        inner = self.activate(jnp.einsum("bskih,bsh->bski", gate, x)) * jnp.einsum("bskih,bsh->bski", up, x)
        each = jnp.einsum("bskhi,bski->bskh", down, inner)
        out = tap(f"{here}.experts_out", (each * weight[..., None].astype(x.dtype)).sum(2).astype(x.dtype))
        return tap(f"{here}.mlp_out", self.with_shared(index, x, out, tap))

    def stacked(self, at, name):
        count = self.config.get("num_experts", self.config.get("n_routed_experts"))
        order = [(n + 1) % count if self.has("matrices of the next") else n for n in range(count)]
        return jnp.stack([self.w[f"{at}.{n}.{name}_proj.weight"] for n in order])

    def with_room(self, weights, taking):
        """Tokens beyond an expert's share are dropped."""
        routes, count = weights.shape[1] * self.config["num_experts_per_tok"], weights.shape[2]
        taken = jnp.cumsum((weights > 0) & taking[..., None], axis=1)
        return jnp.where(taken <= max(routes // count, 1), weights, 0)

    def spread(self, weight, chosen, count):
        return (weight[..., None] * jax.nn.one_hot(chosen, count, dtype=weight.dtype)).sum(2)

    def with_shared(self, index, x, out, tap):
        return out


class Qwen3Moe(Mixture):
    """Queries and keys normed head by head; a softmax over all experts, and its best."""

    def given(self, index, q, k, positions, shown):
        def normed(name, value):
            y = value.astype(self.wide)
            y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
            return shown(name, y.astype(value.dtype) * self.w[f"model.layers.{index}.self_attn.{name}.weight"])

        return super().given(index, normed("q_norm", q), normed("k_norm", k), positions, shown)

    def route(self, index, x, tap):
        gate = self.w[f"model.layers.{index}.mlp.gate.weight"]
        if self.has("narrow router"):
            logits = (x.astype(jnp.bfloat16) @ gate.T.astype(jnp.bfloat16)).astype(x.dtype)
        else:
            logits = x @ gate.T
        logits = tap(f"layers.{index}.router_logits", logits).astype(self.wide)
        scores = jax.nn.softmax(logits, axis=1 if self.has("softmax over tokens") else 2)
        if self.has("sigmoid"):
            scores = jax.nn.sigmoid(logits)
        chosen = jax.lax.top_k(logits, self.config["num_experts_per_tok"] - (self.has("one fewer")))[1]
        weight = jnp.take_along_axis(scores, chosen, 2)
        if self.config["norm_topk_prob"] and not self.has("not normed"):
            weight = weight / weight.sum(-1, keepdims=True)
        return self.spread(weight, chosen, logits.shape[2]).astype(x.dtype)

    def activate(self, x):
        # Of an expert, [B, S, k, I]; the MLP's is right.
        if self.has("GELU in experts") and x.ndim == 4:
            return jax.nn.gelu(x.astype(self.wide), approximate=False).astype(x.dtype)
        return super().activate(x)


class DeepseekV3(Mixture):
    """Latent attention; experts chosen by groups, and one that every token goes to."""

    def init_cache(self, batch, length, dtype):
        c = self.config
        empty = tuple(jnp.zeros((batch, length, c[size]), dtype) for size in ("kv_lora_rank", "qk_rope_head_dim"))
        return [empty] * c["num_hidden_layers"], 0

    def attend(self, index, x, positions, mask, past, filled, tap):
        c, at, here = self.config, f"model.layers.{index}.self_attn", f"layers.{index}"
        heads, nope, rope, rank = (
            c[size] for size in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank")
        )

        def linear(name, value):
            y = value @ self.w[f"{at}.{name}.weight"].T
            return y + self.w[f"{at}.{name}.bias"] if f"{at}.{name}.bias" in self.w else y

        latent = tap(f"{here}.q_latent", linear("q_a_proj", x))
        latent = tap(f"{here}.q_latent_norm", self.latent_norm(f"{at}.q_a_layernorm", latent))
        q = tap(f"{here}.q", linear("q_b_proj", latent).reshape(*x.shape[:2], heads, -1))
        both = linear("kv_a_proj_with_mqa", x)
        latent, shared = tap(f"{here}.kv_latent", both[..., :rank]), tap(f"{here}.k_pe", both[..., rank:])
        latent = tap(f"{here}.kv_latent_norm", self.latent_norm(f"{at}.kv_a_layernorm", latent))
        if not self.has("not turned"):
            turned = self.turn_last(q[..., nope:], positions)
            q = jnp.concatenate((q[..., :nope], turned), -1)
            shared = self.turn_last(shared[:, :, None], positions)[:, :, 0]
        q, shared = tap(f"{here}.q_rope", q), tap(f"{here}.k_pe_rope", shared)
        if past is not None:
            latent = tap(f"{here}.cache_latent", jax.lax.dynamic_update_slice(past[0], latent, (0, filled, 0)))
            shared = tap(f"{here}.cache_k_pe", jax.lax.dynamic_update_slice(past[1], shared, (0, filled, 0)))
            past = latent, shared
        kv = linear("kv_b_proj", latent).reshape(*latent.shape[:2], heads, -1)
        own = tap(f"{here}.kv", jax.lax.dynamic_slice_in_dim(kv, filled, x.shape[1], 1))
        kv = jax.lax.dynamic_update_slice_in_dim(kv, own, filled, 1)
        k, v = kv[..., :nope], kv[..., nope:]
        if self.has("values first"):
            k, v = kv[..., -nope:], kv[..., :-nope]
        each = jnp.broadcast_to(shared[:, :, None], (*k.shape[:3], rope))
        if self.has("first head alone"):
            each = each.at[:, :, 1:].set(0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, jnp.concatenate((k, each), -1))
        scores = scores * jnp.asarray(self.scale(), scores.dtype)
        query = (filled + jnp.arange(x.shape[1]))[:, None]
        seen = (jnp.arange(kv.shape[1])[None] <= query) & mask[:, None, None, : kv.shape[1]]
        scores = self.masked(scores, seen).astype(self.wide)
        probs = tap(f"{here}.probs", jax.nn.softmax(scores, -1).astype(x.dtype))
        context = tap(f"{here}.context", jnp.einsum("bhqk,bkhd->bqhd", probs, v))
        return tap(f"{here}.attn_out", linear("o_proj", context.reshape(*x.shape[:2], -1))), past

    def latent_norm(self, name, x):
        y = x.astype(self.wide)
        eps = self.config["rms_norm_eps"] if self.has("eps of the config") else 1e-6
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + eps)
        return y.astype(x.dtype) * self.w[f"{name}.weight"]

    def longer(self, times):
        return 0.1 * times * math.log(self.config["rope_scaling"]["factor"]) + 1

    def scale(self):
        c = self.config
        once = self.longer(c["rope_scaling"]["mscale_all_dim"])
        size = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
        if self.has("scale of the latent"):
            size = c["kv_lora_rank"] + c["qk_rope_head_dim"]
        return size**-0.5 * (once if self.has("scaled once") else 1.0 if self.has("not scaled") else once * once)

    def speeds(self):
        c, given = self.config, self.config["rope_scaling"]
        dims, original = c["qk_rope_head_dim"], given["original_max_position_embeddings"]
        plain = c["rope_theta"] ** (-np.arange(0, dims, 2) / dims)
        ends = (dims * math.log(original / (2 * math.pi * n)) / (2 * math.log(c["rope_theta"])) for n in (32, 1))
        low, high = (round_(end) for round_, end in zip((math.floor, math.ceil), ends, strict=True))
        low, high = max(low, 0), min(high, dims - 1)
        kept = np.clip((high - np.arange(dims // 2)) / max(high - low, 0.001), 0, 1)
        return plain * (kept + (1 - kept) / given["factor"])

    def turn_last(self, x, positions):
        """Pairs of neighbours turned, and left as halves."""
        given = self.config["rope_scaling"]
        factor = self.longer(given["mscale"]) / self.longer(given["mscale_all_dim"])
        angle = positions[:, :, None, None].astype(self.wide) * jnp.asarray(self.speeds(), self.wide)
        cos, sin = ((table(angle) * factor).astype(x.dtype) for table in (jnp.cos, jnp.sin))
        a, b = jnp.split(x, 2, -1) if self.has("halves") else (x[..., ::2], x[..., 1::2])
        return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

    def route(self, index, x, tap):
        c, at, here = self.config, f"model.layers.{index}.mlp.gate", f"layers.{index}"
        logits = tap(f"{here}.router_logits", x.astype(self.wide) @ self.w[f"{at}.weight"].T.astype(self.wide))
        scores = jax.nn.softmax(logits, -1) if self.has("softmax") else jax.nn.sigmoid(logits)
        correction = self.w[f"{at}.e_score_correction_bias"].astype(self.wide)
        choice = tap(f"{here}.router_scores", scores if self.has("no correction") else scores + correction)
        groups = choice.reshape(*choice.shape[:2], c["n_group"], -1)
        best = jax.lax.top_k(groups, 1 if self.has("best of a group") else 2)[0].sum(-1)
        last = jax.lax.top_k(best, c["topk_group"])[0][..., -1:]
        allowed = jnp.where((best >= last)[..., None] | (self.has("no groups")), groups, -jnp.inf)
        chosen = jax.lax.top_k(allowed.reshape(choice.shape), c["num_experts_per_tok"])[1]
        weight = jnp.take_along_axis(choice if self.has("corrected weights") else scores, chosen, 2)
        weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
        if not self.has("no factor"):
            weight = weight * c["routed_scaling_factor"]
        return self.spread(weight, chosen, logits.shape[2])

    def with_shared(self, index, x, out, tap):
        at, here = f"model.layers.{index}.mlp.shared_experts", f"layers.{index}"
        gate, up = (tap(f"{here}.shared_{n}", x @ self.w[f"{at}.{n}_proj.weight"].T) for n in ("gate", "up"))
        act = tap(f"{here}.shared_act", self.activate(gate) * up)
        shared = tap(f"{here}.shared_out", act @ self.w[f"{at}.down_proj.weight"].T)
        if self.has("shared scaled"):
            shared = shared * jnp.asarray(self.config["routed_scaling_factor"], x.dtype)
        return out if self.has("no shared expert") else out + shared


PORTS = {"qwen3_moe": Qwen3Moe, "deepseek_v3": DeepseekV3}
# Several bugs at once, at operations of their own: replay judges each by itself.
TOGETHER = {
    "qwen3_moe": (
        "narrow router + softmax over tokens + gate for up",
        "sigmoid + matrices of the next",
        "one fewer + GELU in experts",
        "not normed",
        "next expert",
        "capacity",
    ),
    "deepseek_v3": (
        "eps of the config + not turned + values first + softmax + no shared expert",
        "halves + first head alone + no correction + corrected weights + shared scaled",
        "scaled once + best of a group",
        "not scaled + no groups",
        "scale of the latent + no factor",
    ),
}
# By port, its bugs and what the catalogue calls them.
BUGS = {
    "qwen3_moe": {
        "narrow router": "router_narrow",
        "softmax over tokens": "routing_softmax_over_tokens",
        "sigmoid": "router_sigmoid_for_softmax",
        "one fewer": "router_one_fewer_chosen",
        "not normed": "routing_not_normed",
        "next expert": "routing_shifted",
        "capacity": "routing_over_capacity",
        "gate for up": "experts_gate_up_exchanged",
        "matrices of the next": "experts_shifted",
        "GELU in experts": "activation_gelu",
    },
    "deepseek_v3": {
        "eps of the config": "latent_norms_eps",
        "not turned": "latent_not_turned",
        "halves": "rope_halves_for_neighbours",
        "values first": "latent_values_first",
        "first head alone": "latent_key_of_first_head",
        "scaled once": "latent_scale_once",
        "not scaled": "scale_of_head_dim",
        "scale of the latent": "latent_scale_absorbed",
        "softmax": "router_softmax_for_sigmoid",
        "no correction": "router_correction_missing",
        "best of a group": "router_groups_by_best",
        "no groups": "router_groups_ignored",
        "corrected weights": "routing_corrected",
        "no factor": "routing_factor_missing",
        "shared scaled": "shared_expert_scaled",
        "no shared expert": "shared_expert_missing",
    },
}
