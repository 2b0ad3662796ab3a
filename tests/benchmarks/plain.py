"""What a recording and a check are measured against: the same tokens through a plain model, and nothing else.

transformers' own forward pass, a jitted JAX forward pass written here, and reading and hashing a file. Imports are
inside, since each runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Ids = Sequence[Sequence[int]]
CHUNK = 1 << 22


def transformers_forward(checkpoint: Path, precision: str, prompts: Ids, layers: int) -> dict[str, Any]:
    """Seconds of loading the first so many layers, and of each prompt's forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=getattr(torch, precision),
        num_hidden_layers=layers,
        attn_implementation="eager",
        local_files_only=True,
    ).eval()
    load, seconds = time.perf_counter() - started, []
    with torch.inference_mode():
        for ids in prompts:
            started = time.perf_counter()
            model(torch.tensor([list(ids)]))
            seconds.append(time.perf_counter() - started)
    return {"load": load, "prompts": seconds}


def jax_forward(checkpoint: Path, precision: str, prompts: Ids, _: int) -> dict[str, Any]:
    """A layer at a time, so that a model larger than memory runs; one jitted function for each length."""
    import jax

    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")
    import jax.numpy as jnp
    import numpy as np

    from harness.architecture import read_config
    from harness.checkpoint import Checkpoint

    config, stored, dtype = read_config(checkpoint), Checkpoint(checkpoint), jnp.dtype(precision)
    heads, kv, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]

    def read(name: str) -> Any:
        return jnp.asarray(np.asarray(stored.read(name)).astype(dtype))

    def norm(x: Any, weight: Any) -> Any:
        y = x.astype(jnp.float64 if precision == "float64" else jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
        return weight * y.astype(x.dtype)

    def turn(x: Any, cos: Any, sin: Any) -> Any:  # [S, H, D]
        a, b = jnp.split(x, 2, -1)
        return x * cos + jnp.concatenate((-b, a), -1) * sin

    @jax.jit
    def layer(w: dict[str, Any], x: Any) -> Any:  # [S, E]
        length = len(x)
        y = norm(x, w["input_layernorm.weight"])
        q, k, v = (
            (y @ w[f"self_attn.{n}_proj.weight"].T + w[f"self_attn.{n}_proj.bias"]).reshape(length, count, -1)
            for n, count in (("q", heads), ("k", kv), ("v", kv))
        )
        half = q.shape[-1] // 2
        angles = np.arange(length)[:, None] * config["rope_theta"] ** (-np.arange(half) / half)
        cos, sin = (jnp.asarray(np.tile(f(angles), 2)[:, None], dtype) for f in (np.cos, np.sin))
        q = turn(q, cos, sin).reshape(length, kv, heads // kv, -1)
        scores = jnp.einsum("skgd,tkd->kgst", q, turn(k, cos, sin)) * np.asarray((2 * half) ** -0.5, dtype)
        scores = jnp.where(np.tri(length, dtype=bool), scores, -jnp.inf)
        probs = jax.nn.softmax(scores.astype(jnp.promote_types(dtype, jnp.float32)), -1).astype(dtype)
        context = jnp.einsum("kgst,tkd->skgd", probs, v).reshape(length, -1)
        x = x + context @ w["self_attn.o_proj.weight"].T
        y = norm(x, w["post_attention_layernorm.weight"])
        y = jax.nn.silu(y @ w["mlp.gate_proj.weight"].T) * (y @ w["mlp.up_proj.weight"].T)
        return x + y @ w["mlp.down_proj.weight"].T

    @jax.jit
    def head(weight: Any, table: Any, x: Any) -> Any:
        return norm(x, weight) @ table.T

    table = stored.read("model.embed_tokens.weight")
    states = [jnp.asarray(table[np.asarray(ids)].astype(dtype)) for ids in prompts]
    names = [name for name in stored.names if name.startswith("model.layers.0.")]
    for index in range(config["num_hidden_layers"]):
        at = f"model.layers.{index}."
        weights = {
            name.removeprefix("model.layers.0."): read(at + name.removeprefix("model.layers.0.")) for name in names
        }
        states = [layer(weights, x) for x in states]
        jax.block_until_ready(states)
    out = read("model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight")
    weight = read("model.norm.weight")
    jax.block_until_ready([head(weight, out, x) for x in states])
    return {}


def read_and_hash(files: Sequence[Path]) -> dict[str, Any]:
    """Seconds of reading files and taking their sha256."""
    started = time.perf_counter()
    for file in files:
        with file.open("rb") as opened:
            hashlib.file_digest(opened, "sha256")
    return {"seconds": time.perf_counter() - started}
