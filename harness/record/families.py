"""Makes the checkpoints of the embedded goldens of other families: `python -m harness.record.families`.

Each is tiny, and has what its family has: layers of both kinds, a head_dim that is not hidden / heads where it is
free, several heads to a KV head, norm weights that differ, biases, caps that bite, frequencies within every band.
Every byte is a token.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.architecture import Architecture, architecture_of, family_of
from harness.families.experts import CORRECTION, DOWN, GATE_UP, part_rows
from harness.families.family import Family
from harness.families.parameters import HEAD_NORMS, made_with, rows_of, shapes
from harness.record import tiny

BYTES, VOCAB, WINDOW = 256, 264, 6
SEED = 20251129
EMBEDDING_STD, BIAS_STD, NORM_SPREAD, SCORES = 0.03, 0.5, 0.3, 1.3
CORRECTION_STD = 0.1
COMMON: Mapping[str, Any] = {
    "bos_token_id": BYTES,
    "eos_token_id": BYTES + 2,
    "hidden_size": 24,
    "intermediate_size": 30,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}
LLAMA = {
    "head_dim": 8,
    "hidden_act": "silu",
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
GEMMA = {
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 12,
    "rms_norm_eps": 1e-6,
    "sliding_window": WINDOW,
}
# By the name of the golden: config.json in the hub's dialect, as the family publishes it.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama3": {
        **LLAMA,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 128,
            "rope_type": "llama3",
        },
        "rope_theta": 10000.0,
    },
    "qwen3": {
        **LLAMA,
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "max_window_layers": 3,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "gemma2": {
        **GEMMA,
        "architectures": ["Gemma2ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": 8.0,
        "final_logit_softcapping": 6.0,
        "hidden_act": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "rope_theta": 10000.0,
    },
    "gemma3": {
        **GEMMA,
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 6,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000,
        "sliding_window_pattern": 2,
    },
    "olmo2": {
        "architectures": ["Olmo2ForCausalLM"],
        "attention_bias": False,
        "hidden_act": "silu",
        "model_type": "olmo2",
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
    },
    "qwen3-moe": {
        **LLAMA,
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "max_window_layers": 3,
        "mlp_only_layers": [1],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 14,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "deepseek-v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 20,
        "intermediate_size": 20,
        "kv_lora_rank": 8,
        "max_position_embeddings": 2560,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 12,
        "moe_layer_freq": 1,
        "n_group": 4,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 3,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 3,
        "q_lora_rank": 10,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 64,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 2,
        "topk_method": "noaux_tc",
        "v_head_dim": 6,
    },
    "gpt-neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_act": "gelu",
        "hidden_size": 32,
        "layer_norm_eps": 1e-5,
        "model_type": "gpt_neox",
        "rotary_emb_base": 10000,
        "rotary_pct": 0.5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    },
}


def config(name: str) -> dict[str, Any]:
    """config.json of an embedded golden."""
    return dict(sorted({**COMMON, **CONFIGS[name]}.items()))


def parameters(fields: Mapping[str, Any], seed: int = SEED) -> dict[str, Float[np.ndarray, "..."]]:
    """Every parameter of a model of any family, random and structured, float64, by the names of its modules."""
    arch, family = architecture_of(fields), family_of(fields)
    random = np.random.default_rng(seed)
    tensors = {
        name: _drawn(family, arch, random, name, shape)
        for name, shape in sorted(shapes(family, arch).items())
        if not (arch.tied_head and name.startswith(f"{family.model['logits']}."))
    }
    for name, tensor in tensors.items():
        _add_outliers(family, arch, name, tensor)
    return tensors


def _add_outliers(family: Family, arch: Architecture, name: str, tensor: Float[np.ndarray, "..."]) -> None:
    """Gates and ups beyond 7, as `harness.record.tiny` has them; what comes after them undoes it."""
    _, sharing, last = made_with(family, name)
    if last in (GATE_UP, DOWN):
        _add_outliers_of_experts(family, last, tensor)
    if last != "weight" or family.stored_transposed:
        return
    for kind, outliers in (("gate", tiny.OUTLIER_GATES), ("up", tiny.OUTLIER_UPS)):
        if kind in sharing:
            tensor[rows_of(family, arch, kind, len(tensor))[outliers]] *= tiny.OUTLIER_GAIN
        if "mlp_out" in sharing:
            tensor[:, outliers] /= tiny.OUTLIER_GAIN


def _add_outliers_of_experts(family: Family, last: str, tensor: Float[np.ndarray, "expert ..."]) -> None:
    """The same in every expert."""
    rows = tensor.swapaxes(1, 2) if family.experts_transposed else tensor  # [E, output, input]
    if last == DOWN:
        rows[:, :, tiny.OUTLIER_GATES] /= tiny.OUTLIER_GAIN
        rows[:, :, tiny.OUTLIER_UPS] /= tiny.OUTLIER_GAIN
        return
    for part, outliers in (("gate", tiny.OUTLIER_GATES), ("up", tiny.OUTLIER_UPS)):
        rows[:, part_rows(family, part, rows.shape[1])][:, outliers] *= tiny.OUTLIER_GAIN


def _drawn(
    family: Family, arch: Architecture, random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    _, sharing, last = made_with(family, name)
    if last == CORRECTION:
        return CORRECTION_STD * random.standard_normal(shape)
    if last == "bias":
        return BIAS_STD * random.standard_normal(shape)
    if set(sharing) & {"embed", "positions"}:
        return EMBEDDING_STD * random.standard_normal(shape)
    if any("norm" in kind for kind in sharing):
        size = SCORES if set(sharing) & set(HEAD_NORMS) else 1.0
        return size * (1 + NORM_SPREAD * random.uniform(-1, 1, shape)) - arch.norm.plus_one
    inputs = shape[0] if family.stored_transposed and len(shape) == 2 else shape[-1]
    if "experts_out" in sharing and family.experts_transposed:
        inputs = shape[1]
    gain = SCORES if set(sharing) & {"q", "k", "kv"} and arch.qk_norm is None else 1.0
    drawn: np.ndarray = random.standard_normal(shape) * (gain / np.sqrt(inputs))
    return drawn


def in_pieces(family: Family, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters as files have them: of all experts in one, those of each (`Family.each`)."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        path = next((path for path in family.each if name.endswith(f".{path}")), None)
        if path is None:
            found[name] = tensor
            continue
        prefix, templates = name.removesuffix(path), family.each[path]
        for expert, own in enumerate(tensor):
            for template, part in zip(templates, np.split(own, len(templates)), strict=True):
                found[f"{prefix}{template.format(expert)}"] = np.ascontiguousarray(part)
    return found


def write_checkpoint(directory: Path, fields: Mapping[str, Any], seed: int = SEED) -> None:
    """Write a checkpoint of any family, its parameters as bfloat16; its tokenizer needs no training."""
    tensors = in_pieces(family_of(fields), tiny.stored(parameters(fields, seed)))
    tiny.write(directory, dict(fields), tensors, tiny.tokenizer((), BYTES))


if __name__ == "__main__":
    for golden in sys.argv[1:] or CONFIGS:
        write_checkpoint(tiny.GOLDENS / golden, config(golden))
