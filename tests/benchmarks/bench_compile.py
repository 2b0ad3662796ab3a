"""First-call time of the built-in decoder against the same decoder jitted as a whole, at several depths.

    python -m tests.benchmarks.bench_compile

The built-in decoder compiles one layer once, so its first call hardly grows with depth.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from harness.architecture import read_config
from harness.embedded import directory
from harness.run.decoder import Decoder
from harness.run.tapping import no_tap

DEPTHS = (4, 16, 32)
LENGTH = 24


def deeper(source: Path, target: Path, layers: int) -> Path:
    """The embedded checkpoint's shapes at another depth, with random weights."""
    config = read_config(source) | {"num_hidden_layers": layers}
    (target / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    hidden, wide, kv = config["hidden_size"], config["intermediate_size"], 16
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    for i in range(layers):
        for name, shape in {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.bias": (kv,),
            "mlp.gate_proj.weight": (wide, hidden),
            "mlp.up_proj.weight": (wide, hidden),
            "mlp.down_proj.weight": (hidden, wide),
        }.items():
            shapes[f"model.layers.{i}.{name}"] = shape
    save_file(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        target / "model.safetensors",
    )
    return target


def first_call(checkpoint: Path, whole: bool) -> float:
    """Seconds from a fresh decoder to its first logits."""
    jax.clear_caches()
    decoder = Decoder.load(checkpoint, read_config(checkpoint), jnp.dtype("float32"))
    ids = jnp.zeros((1, LENGTH), jnp.int32)
    positions, mask = jnp.arange(LENGTH, dtype=jnp.int32)[None], jnp.ones((1, LENGTH), bool)

    def forward(ids: jax.Array) -> jax.Array:
        return decoder.forward(ids, positions, mask, None, no_tap)[0]

    start = time.perf_counter()
    (jax.jit(forward) if whole else forward)(ids).block_until_ready()
    return time.perf_counter() - start


def main() -> None:
    table = Table("layers", "layer by layer, s", "whole model, s", "ratio", box=None)
    for layers in DEPTHS:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = deeper(directory() / "qwen2-tiny", Path(folder), layers)
            ours, whole = first_call(checkpoint, whole=False), first_call(checkpoint, whole=True)
            table.add_row(str(layers), f"{ours:.1f}", f"{whole:.1f}", f"{whole / ours:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
