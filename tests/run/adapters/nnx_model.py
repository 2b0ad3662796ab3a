"""A Qwen2 in Flax nnx, as one finds them: a list of blocks under jit and remat, or one stacked block in a scan."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from harness.architecture import architecture_of
from harness.run.adapters import NnxPort, To
from tests.run.adapters.functions import grouped, parameters, probabilities, put, rms_norm, rope


class Dense(nnx.Module):
    def __init__(self, kernel, bias=None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x):
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...][None, None]


class Norm(nnx.Module):
    def __init__(self, weight, eps):
        self.weight, self.eps = nnx.Param(weight), eps

    def __call__(self, x):
        return rms_norm(x, self.weight[...], self.eps)


class Embedder(nnx.Module):
    def __init__(self, table):
        self.table = nnx.Param(table)

    def encode(self, ids):
        return self.table[...][ids]


class Attention(nnx.Module):
    def __init__(self, found, at, arch):
        self.arch = arch
        self.q = Dense(found[f"{at}.self_attn.q_proj.weight"], found[f"{at}.self_attn.q_proj.bias"])
        self.k = Dense(found[f"{at}.self_attn.k_proj.weight"], found[f"{at}.self_attn.k_proj.bias"])
        self.v = Dense(found[f"{at}.self_attn.v_proj.weight"], found[f"{at}.self_attn.v_proj.bias"])
        self.o = Dense(found[f"{at}.self_attn.o_proj.weight"])

    def __call__(self, x, positions, mask, cache=None):
        a = self.arch
        q, k, v = (p(x).reshape(*x.shape[:2], -1, a.head_dim) for p in (self.q, self.k, self.v))
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        if cache is not None:
            cache = self.keep(cache, k, v, mask)
            k, v = cache["k"], cache["v"]
        context = jnp.einsum("bkgts,bskd->btkgd", probabilities(grouped(q, a.kv_heads), k, mask), v)
        return {"cache": cache, "out": self.o(context.reshape(*x.shape[:2], -1))}

    def keep(self, cache, k, v, mask):
        k, v = put(cache["k"], k, mask), put(cache["v"], v, mask)
        return {**cache, "k": k, "v": v, "calls": cache["calls"] + 1}

    def rotate(self, x, positions):
        return rope(x, positions, self.arch.ropes[0].theta)


class Block(nnx.Module):
    def __init__(self, found, index, arch):
        at = f"model.layers.{index}"
        self.input_norm = Norm(found[f"{at}.input_layernorm.weight"], arch.norm.eps)
        self.attn = Attention(found, at, arch)
        self.post_norm = Norm(found[f"{at}.post_attention_layernorm.weight"], arch.norm.eps)
        self.gate, self.up, self.down = (Dense(found[f"{at}.mlp.{n}_proj.weight"]) for n in ("gate", "up", "down"))

    def __call__(self, x, positions, mask, cache=None):
        found = self.attn(self.input_norm(x), positions=positions, mask=mask, cache=cache)
        x = x + found["out"]
        y = self.post_norm(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y)), found["cache"]


class Model(nnx.Module):
    """Blocks in a list; every other one is jitted, the rest rematerialized."""

    def __init__(self, found, arch):
        self.embedder = Embedder(found["model.embed_tokens.weight"])
        self.layers = nnx.List([Block(found, index, arch) for index in range(arch.layers)])
        self.norm = Norm(found["model.norm.weight"], arch.norm.eps)
        self.head = Dense(found["lm_head.weight"])

    def __call__(self, ids, positions, mask, cache=None):
        x, after = self.embedder.encode(ids), {}
        for index, layer in enumerate(self.layers):
            transform = nnx.jit if index % 2 else nnx.remat
            past = cache and cache[f"layer_{index}"]
            x, after[f"layer_{index}"] = transform(lambda layer, x, past: layer(x, positions, mask, past))(
                layer, x, past
            )
        logits = self.head(self.norm(x))
        return logits if cache is None else (logits, after)


class ScannedModel(Model):
    """One block whose parameters are stacked, scanned over the layers."""

    def __init__(self, found, arch):
        super().__init__(found, arch)
        graph, states = None, []
        for layer in self.layers:
            graph, state = nnx.split(layer)
            states.append(state)
        self.layers = nnx.merge(graph, jax.tree.map(lambda *x: jnp.stack(x), *states))

    def __call__(self, ids, positions, mask):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(layer, x):
            return layer(x, positions, mask)[0]

        return self.head(self.norm(through(self.layers, self.embedder.encode(ids))))


Q, KV = "batch position (head head_dim)", "batch position (kv_head head_dim)"


def table(block):
    return {
        "embedder.encode": "embed",
        f"{block}.input_norm": "layers.{i}.attn_norm",
        f"{block}.attn.q": To("layers.{i}.q", Q),
        f"{block}.attn.k": To("layers.{i}.k", KV),
        f"{block}.attn.v": To("layers.{i}.v", KV),
        f"{block}.attn.o(0)": To("layers.{i}.context", Q),
        f"{block}.attn[out]": "layers.{i}.attn_out",
        f"{block}.post_norm(0)": "layers.{i}.resid_mid",
        f"{block}.post_norm": "layers.{i}.mlp_norm",
        f"{block}.gate": "layers.{i}.gate",
        f"{block}.up": "layers.{i}.up",
        f"{block}.down(0)": "layers.{i}.act",
        f"{block}.down": "layers.{i}.mlp_out",
        f"{block}[0]": "layers.{i}.resid_post",
        "norm": "final_norm",
    }


class Listed(NnxPort):
    taps = table("layers.{i}")
    pads = True
    model_class = Model

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        model = cls.model_class(parameters(directory, dtype), architecture_of(config))
        return cls(model, config, dtype)

    def run(self, model, input_ids, positions, mask):
        return model(input_ids, positions, mask)


class Cached(Listed):
    """A dict a layer, with something in it that is no tap."""

    cache = {"layer_{i}.k": "layers.{i}.cache_k", "layer_{i}.v": "layers.{i}.cache_v"}

    def init_cache(self, batch, length, dtype):
        empty = jnp.zeros((batch, length, self.arch.kv_heads, self.arch.head_dim), dtype)
        return {f"layer_{i}": {"k": empty, "v": empty, "calls": 0} for i in range(self.arch.layers)}

    def run(self, model, input_ids, positions, mask, cache):
        found = model(input_ids, positions, mask, cache)
        return (found, None) if cache is None else found


class Scanned(Listed):
    taps = table("layers")
    model_class = ScannedModel
