"""Granite's mixtures of experts: Granite's multipliers, and the softmax is of the chosen experts alone."""

from __future__ import annotations

from dataclasses import replace

from harness.families import granite
from harness.families.family import ATTENTION, Family
from harness.families.options import Architecture
from harness.families.reading import layers_of, mixture
from harness.fields import Config


def read(config: Config) -> Architecture:
    experts = mixture(config, (True,) * layers_of(config), score="softmax_of_chosen")
    return replace(granite.read(config), experts=experts)


FAMILIES = (
    Family(
        model_type="granitemoe",
        classes=("GraniteMoeForCausalLM", "GraniteMoeModel"),
        read=read,
        layer=ATTENTION,
        sparse={
            "router_logits": "block_sparse_moe.router",
            "routing": "block_sparse_moe.router",
            "experts_out": "block_sparse_moe.experts",
            "mlp_out": "block_sparse_moe",
        },
        stored={
            r"\.router\.layer\.weight$": ".router.weight",
            r"\.block_sparse_moe\.input_linear\.weight$": ".block_sparse_moe.experts.gate_up_proj",
            r"\.block_sparse_moe\.output_linear\.weight$": ".block_sparse_moe.experts.down_proj",
        },
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    ),
)
