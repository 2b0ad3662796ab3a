"""Qwen2 and 2.5: biases on queries, keys and values; a sliding window in the layers that have one; YaRN.
Qwen3: a norm of every head's queries and keys before RoPE, and a head_dim of its own.
Their mixtures, and Qwen1.5-MoE: Qwen2's have, beside the experts that a token chooses, one that is gated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.families import EACH, EXPERTS, HEAD_NORMS, LAYER, TRAINED, Family
from harness.families.options import Architecture, Experts, Windows
from harness.families.reading import QKV, biased, decoder, flag, mixture, rms_norm, ropes_of, sparse_layers
from harness.families.windows import by_layer_types, layers_of, widths, windows_of
from harness.fields import GUESS, Config, integer, wrong

KINDS = ("default", "yarn")  # of RoPE
COUNTED = {"num_experts": "num_local_experts"}  # as transformers 5 writes it


def read_2(config: Config) -> Architecture:
    windows = windows_of(config)
    return decoder(config, ropes=ropes_of(config, kinds=KINDS), windows=windows, biases=QKV)


def read_3(config: Config) -> Architecture:
    # Where there is none, transformers takes 128 and not hidden_size / num_attention_heads: it has to be there.
    integer(config, "head_dim")
    return decoder(
        config,
        qk_norm=rms_norm(config),
        ropes=ropes_of(config, kinds=KINDS),
        windows=windows_of(config),
        biases=biased(config),  # Qwen3Config's default is none
    )


def _windows(config: Config) -> Windows:
    """By layer types alone: without them transformers windows every other layer, and other stacks do not."""
    used, slides = flag(config, "use_sliding_window", False), by_layer_types(config)
    for field in ("sliding_window", "max_window_layers"):
        config.get(field)  # where no window is used, they say nothing
    if not used:
        return (None,) * layers_of(config)
    if slides is None:
        problem = "the config does not say which layers have the sliding window"
        raise wrong(problem, "layer_types", "the type of every layer", None, GUESS)
    return widths(config, slides)


def _experts(config: Config, **options: Any) -> Experts | None:
    return mixture(
        config,
        sparse_layers(config),
        count="num_experts",
        intermediate="moe_intermediate_size",
        renormed=0.0 if flag(config, "norm_topk_prob", False) else None,  # the default of both configs
        **options,
    )


def read_2_moe(config: Config) -> Architecture:
    shared = integer(config, "shared_expert_intermediate_size")
    return decoder(
        config,
        ropes=ropes_of(config, kinds=KINDS),
        windows=_windows(config),
        biases=biased(config, QKV, "qkv_bias", True),  # Qwen2MoeConfig's default
        experts=_experts(config, shared=shared, shared_gated=True),
    )


def read_3_moe(config: Config) -> Architecture:
    experts = _experts(config)
    return replace(read_3(config), experts=experts)


FAMILIES = (
    Family(
        model_type="qwen2",
        classes=("Qwen2ForCausalLM", "Qwen2Model"),
        read=read_2,
        only={"attention_bias": True, "qkv_bias": True},
    ),
    Family(
        model_type="qwen3",
        classes=("Qwen3ForCausalLM", "Qwen3Model"),
        read=read_3,
        layer={**LAYER, **HEAD_NORMS},
        only={"use_qk_norm": True},
    ),
    Family(
        model_type="qwen2_moe",
        classes=("Qwen2MoeForCausalLM", "Qwen2MoeModel"),
        read=read_2_moe,
        sparse={
            **EXPERTS,
            "shared_gate": "mlp.shared_expert.gate_proj",
            "shared_up": "mlp.shared_expert.up_proj",
            "shared_out": "mlp.shared_expert.down_proj",
            "shared_weight": "mlp.shared_expert_gate",
        },
        each=EACH,
        names=COUNTED,
        harmless=TRAINED,
    ),
    Family(
        model_type="qwen3_moe",
        classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
        read=read_3_moe,
        layer={**LAYER, **HEAD_NORMS},
        sparse=EXPERTS,
        each=EACH,
        names=COUNTED,
        harmless=TRAINED,
        only={"use_qk_norm": True, "shared_expert_intermediate_size": 0},
    ),
)
