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
        return z + w[f"{name}.bias"] if f"{name}.bias" in w else z

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


class OneArray(ByLayer):
    """The cache is one array [batch, layer, 2, slot, kv_head, head_dim]."""

    cache = {"[:, {i}, 0]": "layers.{i}.cache_k", "[:, {i}, 1]": "layers.{i}.cache_v"}

    def init_cache(self, batch, length, dtype):
        a = self.arch
        return jnp.zeros((batch, a.layers, 2, length, a.kv_heads, a.head_dim), dtype)

    def run(self, input_ids, positions, mask, cache):
        if cache is None:
            logits, found = super().run(input_ids, positions, mask)
            return (logits, None), found
        x, layers = self.w["model.embed_tokens.weight"][input_ids], []
        embed = x
        for i in range(self.arch.layers):
            past = self.past(cache, i, mask.shape[1])
            x, found, after = block(self.arch, self.layer(i), x, positions, mask, past)
            layers.append(found)
            cache = self.store(cache, i, after)
        norm = rms_norm(x, self.w["model.norm.weight"], self.arch.norm.eps)
        return (norm @ self.w["lm_head.weight"], cache), {"embed": embed, "norm": norm, "layers": layers}

    def past(self, cache, layer, length):
        return cache[:, layer, 0], cache[:, layer, 1]

    def store(self, cache, layer, after):
        return cache.at[:, layer].set(jnp.stack(after, 1))


PAGE = 4


class Paged(OneArray):
    """The cache is a pool of pages [page, slot, kv_head, head_dim] a layer, and the order of each row's pages."""

    cache = {}

    def init_cache(self, batch, length, dtype):
        a, pages = self.arch, -(-length // PAGE)
        pool = jnp.zeros((batch * pages, PAGE, a.kv_heads, a.head_dim), dtype)
        order = jnp.arange(batch * pages, dtype=jnp.int32)[::-1].reshape(batch, pages)
        return {"pools": [(pool, pool)] * a.layers, "order": order}

    def read_cache(self, cache):
        def read(pool):
            pages = pool[cache["order"]]  # [batch, pages, PAGE, kv_head, head_dim]
            return pages.reshape(pages.shape[0], -1, *pages.shape[3:])

        return {
            f"layers.{i}.cache_{kind}": read(pool)
            for i, pools in enumerate(cache["pools"])
            for kind, pool in zip("kv", pools, strict=True)
        }

    def write_cache(self, cache, values):
        def written(pool, value):
            pages = value.reshape(*cache["order"].shape, PAGE, *pool.shape[2:])
            return pool.at[cache["order"]].set(pages)

        pools = [
            tuple(
                written(pool, values[f"layers.{i}.cache_{kind}"]) for kind, pool in zip("kv", pools, strict=True)
            )
            for i, pools in enumerate(cache["pools"])
        ]
        return {**cache, "pools": pools}

    def past(self, cache, layer, length):
        held = self.read_cache(cache)
        return tuple(held[f"layers.{layer}.cache_{kind}"][:, :length] for kind in "kv")

    def store(self, cache, layer, after):
        held = dict(self.read_cache(cache))
        for kind, value in zip("kv", after, strict=True):
            name = f"layers.{layer}.cache_{kind}"
            held[name] = held[name].at[:, : value.shape[1]].set(value)
        return self.write_cache(cache, held)
