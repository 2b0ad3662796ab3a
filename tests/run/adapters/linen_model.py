"""A Qwen2 in Flax linen, as one finds them: merged heads, a list of blocks or one scanned block, remat."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from harness.architecture import architecture_of
from harness.run.adapters import LinenPort, To
from tests.run.adapters.functions import grouped, parameters, probabilities, put, rms_norm, rope


class Norm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        return rms_norm(x, self.param("weight", nn.initializers.ones, x.shape[-1:], x.dtype), self.eps)


class Rope(nn.Module):
    theta: float

    @nn.compact
    def __call__(self, x, positions):
        return rope(x, positions, self.theta).transpose(0, 2, 1, 3)  # [batch, head, position, head_dim]


class Weights(nn.Module):
    @nn.compact
    def __call__(self, q, k, mask):
        return {"weights": probabilities(q, k, mask)}


class Kept(nn.Module):
    """A cache among the model's variables, as flax keeps it; heads come before slots, and are padded to 16."""

    @nn.compact
    def __call__(self, new, mask):
        if not self.has_variable("cache", "kept"):
            return new
        kept, size = self.variable("cache", "kept", lambda: None), new.shape[-1]
        after = put(kept.value[..., :size].transpose(0, 2, 1, 3), new, mask)
        kept.value = kept.value.at[..., :size].set(after.transpose(0, 2, 1, 3))
        return after


class Block(nn.Module):
    arch: object
    scanned: bool = False

    @nn.compact
    def __call__(self, x, positions, mask):
        a = self.arch

        def dense(size, name, bias=False):
            return nn.Dense(size, use_bias=bias, name=name, dtype=x.dtype, param_dtype=x.dtype)

        y = Norm(a.norm.eps, name="input_norm")(x)
        q = dense(a.heads * a.head_dim, "q_proj", True)(y).reshape(*y.shape[:2], a.heads, -1)
        k = dense(a.kv_heads * a.head_dim, "k_proj", True)(y).reshape(*y.shape[:2], a.kv_heads, -1)
        v = dense(a.kv_heads * a.head_dim, "v_proj", True)(y).reshape(*y.shape[:2], a.kv_heads, -1)
        q = Rope(a.ropes[0].theta, name="q_rope")(q, positions).transpose(0, 2, 1, 3)
        k = Rope(a.ropes[0].theta, name="k_rope")(k, positions).transpose(0, 2, 1, 3)
        k, v = Kept(name="keys")(k, mask), Kept(name="values")(v, mask)
        probs = Weights(name="softmax")(grouped(q, a.kv_heads), k, mask=mask)["weights"]
        context = jnp.einsum("bkgts,bskd->btkgd", probs, v).reshape(*y.shape[:2], -1)
        x = x + dense(a.hidden, "o_proj")(context)
        y = Norm(a.norm.eps, name="post_norm")(x)
        y = nn.silu(dense(a.intermediate, "gate_proj")(y)) * dense(a.intermediate, "up_proj")(y)
        x = x + dense(a.hidden, "down_proj")(y)
        return (x, None) if self.scanned else x


class Model(nn.Module):
    arch: object
    scanned: bool = False

    @nn.compact
    def __call__(self, ids, positions, mask):
        a, dtype = self.arch, self.variables["params"]["norm"]["weight"].dtype
        x = nn.Embed(a.vocab, a.hidden, name="embed", dtype=dtype, param_dtype=dtype)(ids)
        if self.scanned:
            scan = nn.scan(
                nn.remat(Block),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=a.layers,
            )
            x, _ = scan(a, scanned=True, name="layers")(x, positions, mask)
        else:
            for i in range(a.layers):
                x = nn.remat(Block)(a, name=f"layers_{i}")(x, positions, mask)
        x = Norm(a.norm.eps, name="norm")(x)
        return nn.Dense(a.vocab, use_bias=False, name="head", dtype=dtype, param_dtype=dtype)(x)


def variables(directory, arch, dtype, scanned):
    found = parameters(directory, dtype)

    def layer(i):
        def at(name):
            return found[f"model.layers.{i}.{name}"]

        tree = {name: {"kernel": at(f"mlp.{name}.weight")} for name in ("gate_proj", "up_proj", "down_proj")}
        for name in ("q_proj", "k_proj", "v_proj"):
            tree[name] = {"kernel": at(f"self_attn.{name}.weight"), "bias": at(f"self_attn.{name}.bias")}
        return tree | {
            "o_proj": {"kernel": at("self_attn.o_proj.weight")},
            "input_norm": {"weight": at("input_layernorm.weight")},
            "post_norm": {"weight": at("post_attention_layernorm.weight")},
        }

    import jax

    layers = [layer(i) for i in range(arch.layers)]
    blocks = (
        {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
        if scanned
        else {f"layers_{i}": tree for i, tree in enumerate(layers)}
    )
    return {
        "params": blocks
        | {
            "embed": {"embedding": found["model.embed_tokens.weight"]},
            "norm": {"weight": found["model.norm.weight"]},
            "head": {"kernel": found["lm_head.weight"]},
        }
    }


def table(block):
    q, k = "batch position (head head_dim)", "batch position (kv_head head_dim)"
    return {
        "embed": "embed",
        f"{block}.input_norm": "layers.{i}.attn_norm",
        f"{block}.q_proj": To("layers.{i}.q", q),
        f"{block}.k_proj": To("layers.{i}.k", k),
        f"{block}.v_proj": To("layers.{i}.v", k),
        f"{block}.q_rope": To("layers.{i}.q_rope", "batch head position head_dim"),
        f"{block}.k_rope": To("layers.{i}.k_rope", "batch kv_head position head_dim"),
        f"{block}.softmax[weights]": To(
            "layers.{i}.probs", "batch kv_head group position key -> batch (kv_head group) position key"
        ),
        f"{block}.o_proj(0)": To("layers.{i}.context", q),
        f"{block}.o_proj": "layers.{i}.attn_out",
        f"{block}.post_norm(0)": "layers.{i}.resid_mid",
        f"{block}.post_norm": "layers.{i}.mlp_norm",
        f"{block}.gate_proj": "layers.{i}.gate",
        f"{block}.up_proj": "layers.{i}.up",
        f"{block}.down_proj(0)": "layers.{i}.act",
        f"{block}.down_proj": "layers.{i}.mlp_out",
        f"{block}[0]" if block == "layers" else block: "layers.{i}.resid_post",
        "norm": "final_norm",
    }


class Unrolled(LinenPort):
    taps = table("layers_{i}")
    pads = True
    scanned = False

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        arch = architecture_of(config)
        model = Model(arch, cls.scanned)
        return cls(model, variables(directory, arch, dtype, cls.scanned), config, dtype)

    def run(self, apply, input_ids, positions, mask):
        return apply(input_ids, positions, mask)


class Cached(Unrolled):
    cache = {
        f"layers_{{i}}.{name}.kept[..., :head_dim]": To(
            f"layers.{{i}}.cache_{kind}", "batch kv_head slot head_dim"
        )
        for name, kind in (("keys", "k"), ("values", "v"))
    }

    def init_cache(self, batch, length, dtype):
        empty = {"kept": jnp.zeros((batch, self.arch.kv_heads, length, 16), dtype)}
        return {f"layers_{i}": {"keys": empty, "values": empty} for i in range(self.arch.layers)}

    def run(self, apply, input_ids, positions, mask, cache):
        if cache is None:
            return apply(input_ids, positions, mask), None
        variables = {**self.variables, "cache": cache}
        logits, after = self.model.apply(variables, input_ids, positions, mask, mutable=["cache"])
        return logits, after["cache"]


class Scanned(Unrolled):
    taps = table("layers")
    scanned = True
