"""GLM-4 (0414): norms on both sides, half of a head turned in neighbouring pairs, gate and up in one matrix.
GLM-4.5: experts from some layer on, chosen by a sigmoid with a correction, and one that every token goes to."""

from __future__ import annotations

from harness.families import CORRECTED, EACH, EXPERTS, HEAD_NORMS, LAYER, SHARED, TRAINED, Family
from harness.families.options import Architecture
from harness.families.reading import QKV, SIGMOID_ONLY, biased, decoder, flag, rms_norm, ropes_of, sigmoid_mixture
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 128
    return decoder(
        config,
        placement="sandwich",
        ropes=ropes_of(config, partial=0.5, interleaved=True),  # Glm4Config's default
        biases=biased(config, QKV, absent=True),  # and this one
    )


def read_moe(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers and other stacks differ
    normed = flag(config, "use_qk_norm", False)  # Glm4MoeConfig's default
    return decoder(
        config,
        qk_norm=rms_norm(config) if normed else None,
        ropes=ropes_of(config, partial=0.5),
        biases=biased(config, QKV),  # and this one
        experts=sigmoid_mixture(config),
    )


FAMILIES = (
    Family(
        model_type="glm4",
        classes=("Glm4ForCausalLM", "Glm4Model"),
        read=read,
        activation="mlp.activation_fn",
        layer={
            **LAYER,
            "attn_post_norm": "post_self_attn_layernorm",
            "mlp_norm": "post_attention_layernorm",
            **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
            "mlp_post_norm": "post_mlp_layernorm",
        },
    ),
    Family(
        model_type="glm4_moe",
        classes=("Glm4MoeForCausalLM", "Glm4MoeModel"),
        read=read_moe,
        layer={**LAYER, **HEAD_NORMS},
        sparse={**EXPERTS, **CORRECTED, **SHARED},
        each=EACH,
        names={"n_routed_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
        harmless=TRAINED,
        only=SIGMOID_ONLY,
    ),
)
