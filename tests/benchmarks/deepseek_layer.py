"""A layer of DeepSeek-V3's true sizes with random weights, written expert by expert, in FP8 as it is published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Num, Shaped
from safetensors.numpy import save_file

from harness.architecture import architecture_of, family_of
from harness.families.parameters import CORRECTION, shapes
from harness.record import tiny

BYTES, BLOCK, LARGEST = 256, 128, 448  # every byte is a token; of a block with a scale; of float8_e4m3fn
SHARD = 2**30  # bytes
EMBEDDING_STD, NORM_SPREAD, CORRECTION_STD = 0.03, 0.3, 0.1
FP8, BFLOAT16 = "fp8", "bfloat16"
# DeepSeek-V3's config.json, but for its vocabulary and how many layers it has.
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": BYTES,
    "eos_token_id": BYTES + 2,
    "first_k_dense_replace": 0,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 1,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 264,
}
QUANTISED = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}
# Of a byte that is uniform, what is as likely of a normal number, and the code of its share of the largest.
_QUANTILES = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)], np.float32)
_MOST = float(_QUANTILES.max())
_CODES = (_QUANTILES * (LARGEST / _MOST)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def config(experts: int, stored: str) -> dict[str, Any]:
    """config.json of the layer, with so many experts, stored in `fp8` or `bfloat16`."""
    return {**CONFIG, "n_routed_experts": experts, **({"quantization_config": QUANTISED} if stored == FP8 else {})}


def write(directory: Path, experts: int, stored: str, seed: int = 0) -> None:
    """Write the checkpoint in shards: no more than one is in memory."""
    fields = config(experts, stored)
    tiny.write(directory, fields, {}, tiny.tokenizer((), BYTES))
    (directory / "model.safetensors").unlink()
    index: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}

    def close() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, directory / name, {"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in _tensors(fields, np.random.default_rng(seed)):
        shard[name] = tensor
        if sum(one.nbytes for one in shard.values()) >= SHARD:
            close()
    close()
    content = {"metadata": {}, "weight_map": dict(sorted(index.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content, indent=2))


def _tensors(fields: dict[str, Any], random: np.random.Generator) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
    """All that files have, drawn when its turn comes."""
    family, arch = family_of(fields), architecture_of(fields)
    for name, shape in shapes(family, arch).items():
        path = next((path for path in family.each if name.endswith(f".{path}")), None)
        if path is None:
            yield from _drawn(random, fields, name, shape)
            continue
        prefix, templates = name.removesuffix(path), family.each[path]
        each = (shape[1] // len(templates), shape[2])
        for expert in range(shape[0]):
            for template in templates:
                yield from _drawn(random, fields, f"{prefix}{template.format(expert)}", each)


def _drawn(
    random: np.random.Generator, fields: dict[str, Any], name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
    if name.endswith(CORRECTION):
        yield name, random.standard_normal(shape, np.float32) * np.float32(CORRECTION_STD)
    elif "norm" in name:
        yield name, (1 + NORM_SPREAD * random.uniform(-1, 1, shape)).astype(ml_dtypes.bfloat16)
    elif "_proj" not in name:  # embedding, router, head
        std = EMBEDDING_STD if "embed" in name else 1 / np.sqrt(shape[-1])
        yield name, (random.standard_normal(shape, np.float32) * np.float32(std)).astype(ml_dtypes.bfloat16)
    else:
        values, scales = _matrix(random, shape)
        if "quantization_config" in fields:
            yield name, values
            yield f"{name}_scale_inv", scales
        else:
            from harness.packed import from_fp8

            yield name, from_fp8(values, scales, (BLOCK, BLOCK))


def _matrix(
    random: np.random.Generator, shape: tuple[int, ...]
) -> tuple[Shaped[np.ndarray, "row column"], Float32[np.ndarray, "high wide"]]:
    """Normal numbers of 8 bits, and the scales that make products of them as large as what comes in."""
    bytes_ = np.frombuffer(random.bytes(shape[0] * shape[1]), np.uint8).reshape(shape)
    scales = random.uniform(0.5, 1.5, tuple(ceil(n / BLOCK) for n in shape)) * _MOST / LARGEST / np.sqrt(shape[1])
    return np.take(_CODES, bytes_).view(ml_dtypes.float8_e4m3fn), scales.astype(np.float32)
