"""The checkpoint in the second port's own layout: fused, [out, in], heads apart, one record per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from safetensors.numpy import load_file

Raw = Mapping[str, np.ndarray]
Change = Callable[[Raw], Raw]


class Block(NamedTuple):
    """One layer. H query heads, K key heads, D features a head, E hidden, F intermediate."""

    norm_in: jax.Array  # [E]
    qkv: jax.Array  # [H + 2K, D, E]
    qkv_bias: jax.Array  # [H + 2K, D]
    out: jax.Array  # [E, H, D]
    norm_mid: jax.Array  # [E]
    gate_up: jax.Array  # [2, F, E]
    down: jax.Array  # [E, F]


class Parameters(NamedTuple):
    table: jax.Array  # [V, E]
    blocks: tuple[Block, ...]
    norm_out: jax.Array  # [E]
    head: jax.Array  # [V, E]


def read(directory, config, dtype, change: Change = lambda raw: raw) -> Parameters:
    """Load a checkpoint; `change` is applied to the tensors under their own names, before they are packed."""
    raw = {name: value.astype(dtype) for name, value in load_file(directory / "model.safetensors").items()}
    raw = change(raw)
    return Parameters(
        table=jax.device_put(raw["model.embed_tokens.weight"]),
        blocks=tuple(_block(raw, index, config) for index in range(config["num_hidden_layers"])),
        norm_out=jax.device_put(raw["model.norm.weight"]),
        head=jax.device_put(raw["lm_head.weight"]),
    )


def _block(raw: Raw, index: int, config) -> Block:
    def get(name: str) -> np.ndarray:
        return raw[f"model.layers.{index}.{name}"]

    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = hidden // heads
    weights = [get(f"self_attn.{n}_proj.weight").reshape(-1, size, hidden) for n in "qkv"]
    biases = [get(f"self_attn.{n}_proj.bias").reshape(-1, size) for n in "qkv"]
    return Block(
        norm_in=jax.device_put(get("input_layernorm.weight")),
        qkv=jax.device_put(np.concatenate(weights)),
        qkv_bias=jax.device_put(np.concatenate(biases)),
        out=jax.device_put(get("self_attn.o_proj.weight").reshape(hidden, heads, size)),
        norm_mid=jax.device_put(get("post_attention_layernorm.weight")),
        gate_up=jax.device_put(np.stack([get("mlp.gate_proj.weight"), get("mlp.up_proj.weight")])),
        down=jax.device_put(get("mlp.down_proj.weight")),
    )
