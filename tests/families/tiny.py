"""Tiny configs of every family, on which its table is tried, and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from harness.record import families
from harness.record.families import BYTES

VOCAB = 264  # the bytes, a few special tokens, and rows that no token has
COMMON = {
    "bos_token_id": BYTES,
    "eos_token_id": BYTES + 2,
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 56,
    "max_position_embeddings": 4096,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": BYTES,  # some have a default beyond this vocabulary
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MSCALES = {"mscale": 1.0, "mscale_all_dim": 0.7}
NEOX = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "num_key_value_heads": None,
    "rope_theta": None,
    "rotary_emb_base": 10000,
}
MLA = {
    "kv_lora_rank": 20,
    "num_key_value_heads": 6,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
GPT2 = {"bos_token_id", "eos_token_id", "torch_dtype", "vocab_size", "model_type"}  # what it has in common
MOE = {"num_experts_per_tok": 2}
SIGMOID = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 20,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 2.5,
    "topk_group": 2,
}
# How files of a family call parameters, where the modules of transformers call them otherwise.
PUBLISHED = {
    "granitemoe": {
        "experts.gate_up_proj": "input_linear.weight",
        "experts.down_proj": "output_linear.weight",
        "router.weight": "router.layer.weight",
    },
    "mixtral": {".mlp.": ".block_sparse_moe."},
}
NULLS = {"final_logit_softcapping", "q_lora_rank", "sliding_window"}  # where null is said, and not left out
# By family, the configs that its table is tried on: what is in COMMON, and this.
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "cohere": {
        "plain": {"layer_norm_eps": 1e-5, "logit_scale": 0.25, "tie_word_embeddings": None},
        "qk": {"layer_norm_eps": 1e-5, "logit_scale": 0.25, "use_qk_norm": True},
    },
    "cohere2": {
        "plain": {
            "layer_norm_eps": 1e-5,
            "layer_types": ["sliding_attention", "full_attention"],
            "logit_scale": 0.25,
            "sliding_window": 6,
            "tie_word_embeddings": None,
        }
    },
    "deepseek_v2": {
        "plain": {
            **MLA,
            "first_k_dense_replace": 1,
            "mlp_bias": True,
            "moe_intermediate_size": 20,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "q_lora_rank": None,
            "rope_scaling": {**YARN, **MSCALES},
            "routed_scaling_factor": 2.5,
            "topk_method": "greedy",
        },
        "groups": {
            **MLA,
            **{field: value for field, value in SIGMOID.items() if field != "norm_topk_prob"},
            "topk_method": "group_limited_greedy",
        },
    },
    "deepseek_v3": {
        "plain": {**MLA, **SIGMOID, "attention_bias": True, "rope_scaling": {**YARN, **MSCALES}},
        "halves": {**MLA, **SIGMOID, "norm_topk_prob": False, "q_lora_rank": None, "rope_interleave": False},
    },
    "gemma3_text": {
        "plain": {
            "final_logit_softcapping": None,
            "head_dim": 12,
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 10,
            "rope_local_base_freq": 1000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 1e5,
            "sliding_window": 6,
            "sliding_window_pattern": 2,
            "tie_word_embeddings": None,
        }
    },
    "gpt2": {
        "plain": {
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "n_embd": 48,
            "n_head": 6,
            "n_inner": None,
            "n_layer": 2,
            "n_positions": 512,
        }
    },
    "gpt_neox": {
        "parallel": {**NEOX, "rotary_pct": 0.5},
        "sequential": {**NEOX, "rotary_pct": 1.0, "use_parallel_residual": False, "attention_bias": False},
    },
    "glm4": {"plain": {"head_dim": 12, "partial_rotary_factor": 0.5, "attention_bias": True}},
    "phi": {
        "plain": {
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "num_key_value_heads": 6,
            "partial_rotary_factor": 0.5,
        }
    },
    "smollm3": {"plain": {"no_rope_layer_interval": 3, "num_hidden_layers": 3, "tie_word_embeddings": None}},
    "stablelm": {
        "plain": {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "use_qkv_bias": True},
        "parallel": {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "use_parallel_residual": True},
    },
    "starcoder2": {
        "plain": {
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": 1e-5,
            "sliding_window": 6,
            "tie_word_embeddings": None,
            "use_bias": True,
        }
    },
    "gemma": {"plain": {"head_dim": 12, "tie_word_embeddings": None, "hidden_act": "gelu_pytorch_tanh"}},
    "gemma2": {
        "plain": {
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
            "head_dim": 12,
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 10,
            "sliding_window": 6,
            "tie_word_embeddings": None,
        }
    },
    "granite": {
        "plain": {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": True,
        }
    },
    "llama": {
        "llama3": {"head_dim": 8, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}},
        "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}, "tie_word_embeddings": True},
        "yarn": {"head_dim": 8, "rope_scaling": YARN, "attention_bias": True, "mlp_bias": True},
    },
    "ministral3": {
        "plain": {
            "head_dim": 8,
            "rope_parameters": {**YARN, "rope_theta": 1e4, "llama_4_scaling_beta": 0.1, "mscale": 1.0},
            "rope_theta": None,
        }
    },
    "glm4_moe": {
        "groups": {
            **SIGMOID,
            "attention_bias": True,
            "head_dim": 12,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
        }
    },
    "gpt_oss": {
        "plain": {
            **MOE,
            "experts_per_token": 2,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_local_experts": 6,
            "rope_scaling": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
            "sliding_window": 6,
            "swiglu_limit": 7.0,
        }
    },
    "granitemoe": {
        "plain": {
            **MOE,
            "attention_multiplier": 0.3,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "num_local_experts": 6,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": True,
        }
    },
    "qwen2_moe": {
        "plain": {
            **MOE,
            "decoder_sparse_step": 2,
            "moe_intermediate_size": 20,
            "num_experts": 6,
            "shared_expert_intermediate_size": 28,
            "use_sliding_window": False,
        }
    },
    "mixtral": {"plain": {**MOE, "head_dim": None, "num_local_experts": 6, "sliding_window": None}},
    "qwen3_moe": {
        "plain": {
            **MOE,
            "attention_bias": False,
            "head_dim": 8,
            "mlp_only_layers": [0],
            "moe_intermediate_size": 20,
            "norm_topk_prob": True,
            "num_experts": 6,
        },
        "all": {**MOE, "head_dim": 8, "moe_intermediate_size": 20, "num_experts": 6},
    },
    "mistral": {"window": {"head_dim": 8, "sliding_window": 6}, "none": {"head_dim": 8, "sliding_window": None}},
    "olmo2": {"plain": {"num_key_value_heads": 2}},
    "olmo3": {
        "plain": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_scaling": YARN,
            "rope_theta": 500000.0,
            "sliding_window": 6,
        }
    },
    "phi3": {
        "plain": {"partial_rotary_factor": 0.75, "sliding_window": 6},
        "longrope": {
            "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.25, 1.5, 2.0],
                "long_factor": [1.0, 3.0, 9.0, 27.0],
            },
            "sliding_window": None,
        },
    },
    "qwen2": {
        "plain": {"head_dim": 8, "use_sliding_window": False},
        "yarn": {"rope_scaling": YARN, "use_sliding_window": False},
    },
    "qwen3": {"plain": {"head_dim": 12}, "yarn": {"head_dim": 8, "rope_scaling": YARN, "attention_bias": True}},
}
ALL = [(family, name) for family, named in CONFIGS.items() for name in named]


def config(family: str, name: str) -> dict[str, Any]:
    """A config in the hub's dialect."""
    fields = {**COMMON, "model_type": family, **CONFIGS[family][name]}
    if family == "gpt2":
        fields = {field: value for field, value in fields.items() if field in GPT2 or field not in COMMON}
    if {"layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"} & fields.keys():
        fields.pop("rms_norm_eps", None)
    return {field: value for field, value in fields.items() if value is not None or field in NULLS}


def deeper(fields: dict[str, Any], layers: int) -> dict[str, Any]:
    """A config with so many layers, their types in turn."""
    types = fields.get("layer_types")
    in_turn = {} if types is None else {"layer_types": [types[n % len(types)] for n in range(layers)]}
    return {**fields, "num_hidden_layers": layers, **in_turn}


def write(directory: Path, family: str, name: str, seed: int = 0, layers: int | None = None) -> Path:
    """Write the checkpoint, with as many layers as its config says, or others."""
    fields = config(family, name)
    families.write_checkpoint(directory, fields if layers is None else deeper(fields, layers), seed)
    if family in PUBLISHED:
        path = directory / "model.safetensors"
        tensors = {_published(family, name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return directory


def _published(family: str, name: str) -> str:
    for own, published in PUBLISHED[family].items():
        name = name.replace(own, published)
    return name
