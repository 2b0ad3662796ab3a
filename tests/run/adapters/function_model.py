"""A Qwen2 as a function that returns its intermediates: in a list of dicts by layer, or stacked by a scan."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from harness.architecture import architecture_of
from harness.run.adapters import FunctionPort, To
from tests.run.adapters.functions import grouped, parameters, probabilities, put, rms_norm, rope

LAYER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{n}_proj.{part}" for n in "qkv" for part in ("weight", "bias")),
    *("self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
)


@functools.partial(jax.jit, static_argnums=0)
def block(arch, w, x, positions, mask, past=None):
    """One layer; returns its output, and its intermediates (`resid_post` is both).

    Args:
        past: the layer's keys and values before, where there is a cache; they are then returned as they are after.
    """

    def project(y, name):
        z = y @ w[f"{name}.weight"]
        return z + w[f"{name}.bias"][None, None] if f"{name}.bias" in w else z

    found = {"attn_norm": rms_norm(x, w["input_layernorm.weight"], arch.norm.eps)}
    for name in "qkv":
        found[name] = project(found["attn_norm"], f"self_attn.{name}_proj")
    q, k, v = (found[name].reshape(*x.shape[:2], -1, arch.head_dim) for name in "qkv")
    theta = arch.ropes[0].theta
    found["q_rope"], found["k_rope"] = rope(q, positions, theta), rope(k, positions, theta)
    keys, values = found["k_rope"], v
    if past is not None:
        keys, values = put(past[0], keys, mask), put(past[1], values, mask)
    found["probs"] = probabilities(grouped(found["q_rope"], arch.kv_heads), keys, mask)
    context = jnp.einsum("bkgts,bskd->btkgd", found["probs"], values)
    found["context"] = context.reshape(*x.shape[:2], -1)
    found["attn_out"] = project(found["context"], "self_attn.o_proj")
    found["resid_mid"] = x + found["attn_out"]
    y = found["mlp_norm"] = rms_norm(found["resid_mid"], w["post_attention_layernorm.weight"], arch.norm.eps)
    found["gate"], found["up"] = project(y, "mlp.gate_proj"), project(y, "mlp.up_proj")
    found["act"] = jax.nn.silu(found["gate"]) * found["up"]
    found["mlp_out"] = project(found["act"], "mlp.down_proj")
    found["resid_post"] = found["resid_mid"] + found["mlp_out"]
    return (found["resid_post"], found) if past is None else (found["resid_post"], found, (keys, values))


Q, KV = "batch position (head head_dim)", "batch position (kv_head head_dim)"
PROBS = "batch kv_head group position key -> batch (kv_head group) position key"
LAYOUTS = {"q": Q, "k": KV, "v": KV, "context": Q, "probs": PROBS}
KINDS = (
    *("attn_norm", "q", "k", "v", "q_rope", "k_rope", "probs", "context", "attn_out", "resid_mid"),
    *("mlp_norm", "gate", "up", "act", "mlp_out", "resid_post"),
)


class ByLayer(FunctionPort):
    taps = {"embed": "embed", "norm": "final_norm"} | {
        f"layers.{{i}}.{kind}": To(f"layers.{{i}}.{kind}", LAYOUTS.get(kind)) for kind in KINDS
    }

    def __init__(self, directory, config, dtype):
        super().__init__(config, dtype)
        self.arch, self.w = architecture_of(config), parameters(directory, dtype)

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        return cls(directory, config, dtype)

    def run(self, input_ids, positions, mask):
        x = embed = self.w["model.embed_tokens.weight"][input_ids]
        x, layers = self.blocks(x, positions, mask)
        norm = rms_norm(x, self.w["model.norm.weight"], self.arch.norm.eps)
        return norm @ self.w["lm_head.weight"], {"embed": embed, "norm": norm, **layers}

    def blocks(self, x, positions, mask):
        layers = []
        for index in range(self.arch.layers):
            x, found = block(self.arch, self.layer(index), x, positions, mask)
            layers.append(found)
        return x, {"layers": layers}

    def layer(self, index):
        return {name: self.w[f"model.layers.{index}.{name}"] for name in LAYER}


class Stacked(ByLayer):
    taps = {"embed": "embed", "norm": "final_norm"} | {
        kind: To(f"layers.{{i}}.{kind}", LAYOUTS.get(kind)) for kind in KINDS
    }

    def blocks(self, x, positions, mask):
        layers = [self.layer(index) for index in range(self.arch.layers)]
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
        return jax.lax.scan(lambda x, w: block(self.arch, w, x, positions, mask), x, stacked)


PAGE = 4


class Cached(ByLayer):
    """Every layer keeps its cache in another way, the last one in pages, which no table describes."""

    cache = {
        "0[:, 0]": "layers.0.cache_k",  # one array [batch, 2, slot, kv_head, head_dim]
        "0[:, 1]": "layers.0.cache_v",
        "1.0": To("layers.1.cache_k", "batch kv_head slot head_dim"),
        "1.1": To("layers.1.cache_v", "batch kv_head slot head_dim"),
        "2.k[..., :head_dim]": "layers.2.cache_k",  # heads are padded to 16
        "2.v[..., :head_dim]": "layers.2.cache_v",
    }

    def init_cache(self, batch, length, dtype):
        heads, size, pages = self.arch.kv_heads, self.arch.head_dim, -(-length // PAGE)
        transposed = jnp.zeros((batch, heads, length, size), dtype)
        padded = jnp.zeros((batch, length, heads, 16), dtype)
        pool = jnp.zeros((batch * pages, PAGE, heads, size), dtype)
        return (
            jnp.zeros((batch, 2, length, heads, size), dtype),
            [transposed, transposed],
            {"k": padded, "v": padded},
            {"pools": (pool, pool), "order": jnp.arange(batch * pages)[::-1].reshape(batch, pages)},
        )

    def read_cache(self, cache):
        k, v = (self.pages(pool, cache[3]["order"]) for pool in cache[3]["pools"])
        return {**super().read_cache(cache), "layers.3.cache_k": k, "layers.3.cache_v": v}

    def write_cache(self, cache, values):
        order, last = cache[3]["order"], [values[f"layers.3.cache_{kind}"] for kind in "kv"]
        written = (
            pool.at[order].set(value.reshape(*order.shape, *pool.shape[1:]))
            for pool, value in zip(cache[3]["pools"], last, strict=True)
        )
        return (*super().write_cache(cache, values)[:3], {"pools": tuple(written), "order": order})

    def pages(self, pool, order):
        pages = pool[order]  # [batch, page, slot, kv_head, head_dim]
        return pages.reshape(pages.shape[0], -1, *pages.shape[3:])

    def run(self, input_ids, positions, mask, cache):
        if cache is None:
            logits, found = super().run(input_ids, positions, mask)
            return (logits, None), found
        x = embed = self.w["model.embed_tokens.weight"][input_ids]
        layers, kept = [], []
        for i, own in enumerate(cache):
            past = self.past(own, i, mask.shape[1])
            x, found, after = block(self.arch, self.layer(i), x, positions, mask, past)
            layers.append(found)
            kept.append(self.kept(own, i, *after))
        norm = rms_norm(x, self.w["model.norm.weight"], self.arch.norm.eps)
        found = {"embed": embed, "norm": norm, "layers": layers}
        return (norm @ self.w["lm_head.weight"], tuple(kept)), found

    def past(self, own, layer, length):
        """Keys and values of a layer, [batch, slot, kv_head, head_dim]."""
        if layer == 0:
            return own[:, 0], own[:, 1]
        if layer == 1:
            return tuple(one.transpose(0, 2, 1, 3) for one in own)
        if layer == 2:
            return tuple(own[name][..., : self.arch.head_dim] for name in "kv")
        return tuple(self.pages(pool, own["order"])[:, :length] for pool in own["pools"])

    def kept(self, own, layer, k, v):
        if layer == 0:
            return jnp.stack([k, v], 1)
        if layer == 1:
            return [one.transpose(0, 2, 1, 3) for one in (k, v)]
        if layer == 2:
            rest = 16 - self.arch.head_dim
            return {name: jnp.pad(one, [(0, 0)] * 3 + [(0, rest)]) for name, one in (("k", k), ("v", v))}
        slots = jnp.arange(k.shape[1])
        pages, within = own["order"][:, slots // PAGE], slots % PAGE
        pools = zip(own["pools"], (k, v), strict=True)
        return {**own, "pools": tuple(pool.at[pages, within].set(one) for pool, one in pools)}
