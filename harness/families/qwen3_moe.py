"""Qwen3's mixtures of experts: Qwen3, with experts in the layers that a config names."""

from __future__ import annotations

from dataclasses import replace

from harness.families import qwen3
from harness.families.family import EACH, EXPERTS, HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture
from harness.families.reading import flag, layers_of, mixture, sparse_layers
from harness.fields import Config


def read(config: Config) -> Architecture:
    experts = mixture(
        config,
        sparse_layers(config, layers_of(config)),
        count="num_experts",
        intermediate="moe_intermediate_size",
        renormed=0.0 if flag(config, "norm_topk_prob", False) else None,  # Qwen3MoeConfig's default
    )
    return replace(qwen3.read(config), experts=experts)


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
