"""GLM-4.5: experts from some layer on, chosen by a sigmoid with a correction, and one that every token goes to."""

from __future__ import annotations

from harness.families.family import CORRECTED, EACH, EXPERTS, HEAD_NORMS, LAYER, SHARED, Family
from harness.families.options import Architecture
from harness.families.reading import (
    SIGMOID_ONLY,
    decoder,
    flag,
    heads_of,
    layers_of,
    rms_norm,
    sigmoid_mixture,
)
from harness.families.rope import rope
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    layers = layers_of(config)
    integer(config, "head_dim")  # where there is none, transformers and other stacks differ
    normed = flag(config, "use_qk_norm", False)  # Glm4MoeConfig's default
    return decoder(
        config,
        norm=rms_norm(config),
        qk_norm=rms_norm(config) if normed else None,
        ropes=(rope(config, heads_of(config)[-1], partial=0.5),) * layers,
        biases=frozenset({"q", "k", "v"} if flag(config, "attention_bias", False) else ()),  # and this one
        experts=sigmoid_mixture(config),
    )


FAMILIES = (
    Family(
        model_type="glm4_moe",
        classes=("Glm4MoeForCausalLM", "Glm4MoeModel"),
        read=read,
        layer={**LAYER, **HEAD_NORMS},
        sparse={**EXPERTS, **CORRECTED, **SHARED},
        each=EACH,
        names={"n_routed_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef"}),
        only=SIGMOID_ONLY,
    ),
)
