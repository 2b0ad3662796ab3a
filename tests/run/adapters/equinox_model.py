"""A Qwen2 in Equinox, as one finds them: for one sequence, mapped over the batch, jitted, checkpointed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from harness.architecture import architecture_of
from harness.run.adapters import EquinoxPort, To
from tests.run.adapters.functions import parameters, rms_norm, rope


class Dense(eqx.Module):
    kernel: jax.Array
    bias: jax.Array | None = None

    def __call__(self, x):
        y = x @ self.kernel
        return y if self.bias is None else y + self.bias


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=["eps"])
@dataclass(frozen=True)
class Norm:
    """A pytree that is no module of Equinox."""

    weight: jax.Array
    eps: float

    def __call__(self, x):
        return rms_norm(x, self.weight, self.eps)


class Rope(eqx.Module):
    theta: float = eqx.field(static=True)

    def __call__(self, x, positions):
        return rope(x[None], positions[None], self.theta)[0]


def probabilities(q, k, mask):
    """Of one head: q [position, head_dim], k [key, head_dim]."""
    scores = q @ k.T * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    visible = jnp.tril(jnp.ones(scores.shape, bool)) & mask[None]
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)


def softmax(q, k, mask):
    return probabilities(q, k, mask)


class Attention(eqx.Module):
    """Of one sequence: x [position, hidden]."""

    q: Dense
    k: Dense
    v: Dense
    o: Dense
    q_rope: Rope
    k_rope: Rope
    arch: Any = eqx.field(static=True)
    weights: Callable = eqx.field(static=True, default=softmax)

    def __call__(self, x, positions, mask):
        a = self.arch
        q, k, v = (jax.vmap(p)(x).reshape(len(x), -1, a.head_dim) for p in (self.q, self.k, self.v))
        q, k = self.q_rope(q, positions), self.k_rope(k, positions)
        k, v = (jnp.repeat(y, a.heads // a.kv_heads, axis=1) for y in (k, v))
        probs = jax.vmap(self.weights, in_axes=(1, 1, None))(q, k, mask)  # [head, position, key]
        context = jnp.einsum("hts,shd->thd", probs, v).reshape(len(x), -1)
        return {"out": jax.vmap(self.o)(context), "cache": None}


class Mlp(eqx.Module):
    gate: Dense
    up: Dense
    down: Dense

    @eqx.filter_jit
    def __call__(self, x):
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(eqx.Module):
    input_norm: Norm
    attn: Attention
    post_norm: Norm
    mlp: Mlp

    def __call__(self, x, positions, mask):
        x = x + self.attn(jax.vmap(self.input_norm)(x), positions, mask=mask)["out"]
        return x + jax.vmap(self.mlp)(jax.vmap(self.post_norm)(x)), None


class Model(eqx.Module):
    """Blocks in a list; every other one is jitted, the rest checkpointed."""

    table: jax.Array
    layers: Any
    norm: Norm
    head: Dense

    def embed(self, ids):
        return self.table[ids]

    def __call__(self, ids, positions, mask):
        x = self.embed(ids)
        for index, layer in enumerate(self.layers):
            transform = eqx.filter_jit if index % 2 else eqx.filter_checkpoint
            x, _ = transform(layer)(x, positions, mask)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


class ScannedModel(Model):
    """One block whose parameters are stacked, scanned over the layers."""

    def __call__(self, ids, positions, mask):
        arrays, rest = eqx.partition(self.layers, eqx.is_array)

        def step(x, arrays):
            return eqx.combine(arrays, rest)(x, positions, mask)

        x, _ = jax.lax.scan(step, self.embed(ids), arrays)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def _block(found, index, arch):
    at = f"model.layers.{index}"
    q, k, v = (
        Dense(found[f"{at}.self_attn.{n}_proj.weight"], found[f"{at}.self_attn.{n}_proj.bias"]) for n in "qkv"
    )
    gate, up, down = (Dense(found[f"{at}.mlp.{n}_proj.weight"]) for n in ("gate", "up", "down"))
    turn, o = Rope(arch.ropes[0].theta), Dense(found[f"{at}.self_attn.o_proj.weight"])
    return Block(
        Norm(found[f"{at}.input_layernorm.weight"], arch.norm.eps),
        Attention(q, k, v, o, turn, turn, arch),
        Norm(found[f"{at}.post_attention_layernorm.weight"], arch.norm.eps),
        Mlp(gate, up, down),
    )


def model(directory, arch, dtype, made):
    found = parameters(directory, dtype)
    layers = [_block(found, index, arch) for index in range(arch.layers)]
    if made is ScannedModel:
        layers = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    norm = Norm(found["model.norm.weight"], arch.norm.eps)
    return made(found["model.embed_tokens.weight"], layers, norm, Dense(found["lm_head.weight"]))


def table(block):
    q, kv = "batch position (head head_dim)", "batch position (kv_head head_dim)"
    return {
        "embed": "embed",
        f"{block}.input_norm": "layers.{i}.attn_norm",
        f"{block}.attn.q": To("layers.{i}.q", q),
        f"{block}.attn.k": To("layers.{i}.k", kv),
        f"{block}.attn.v": To("layers.{i}.v", kv),
        f"{block}.attn.q_rope": "layers.{i}.q_rope",
        f"{block}.attn.k_rope": "layers.{i}.k_rope",
        f"{block}.attn.weights": "layers.{i}.probs",
        f"{block}.attn.o(0)": To("layers.{i}.context", q),
        f"{block}.attn[out]": "layers.{i}.attn_out",
        f"{block}.post_norm(0)": "layers.{i}.resid_mid",
        f"{block}.post_norm": "layers.{i}.mlp_norm",
        f"{block}.mlp.gate": "layers.{i}.gate",
        f"{block}.mlp.up": "layers.{i}.up",
        f"{block}.mlp.down(0)": "layers.{i}.act",
        f"{block}.mlp": "layers.{i}.mlp_out",
        f"{block}[0]": "layers.{i}.resid_post",
        "norm": "final_norm",
    }


class Listed(EquinoxPort):
    taps = table("layers.{i}")
    pads = True
    made = Model

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        return cls(model(directory, architecture_of(config), dtype, cls.made), config, dtype)

    def run(self, model, input_ids, positions, mask):
        return jax.vmap(model)(input_ids, positions, mask)


class Scanned(Listed):
    taps = table("layers")
    made = ScannedModel
