"""Qwen3's mixtures of experts: Qwen3, with experts in the layers that a config names."""

from __future__ import annotations

from dataclasses import replace

from harness.families import qwen3
from harness.families.family import EACH, EXPERTS, HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture, Experts
from harness.families.reading import flag, layers_of, sparse_layers
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    count = integer(config, "num_experts")
    experts = Experts(
        layers=sparse_layers(config, layers_of(config)),
        count=count,
        chosen=integer(config, "num_experts_per_tok", most=count),
        intermediate=integer(config, "moe_intermediate_size"),
        renormed=0.0 if flag(config, "norm_topk_prob", False) else None,  # Qwen3MoeConfig's default
    )
    return replace(qwen3.read(config), experts=experts if any(experts.layers) else None)


FAMILIES = (
    Family(
        model_type="qwen3_moe",
        classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
        read=read,
        layer={**LAYER, **HEAD_NORMS},
        sparse=EXPERTS,
        each=EACH,
        names={"num_experts": "num_local_experts"},  # as transformers 5 writes it
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef"}),
        only={"use_qk_norm": True, "shared_expert_intermediate_size": 0},
    ),
)
