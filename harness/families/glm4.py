"""GLM-4 (0414): norms on both sides, half of a head turned in neighbouring pairs, gate and up in one matrix."""

from __future__ import annotations

from harness.families.family import LAYER, Family
from harness.families.options import Architecture
from harness.families.reading import decoder, flag, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 128
    one = rope(config, heads_of(config)[-1], partial=0.5, interleaved=True)  # Glm4Config's default
    biased = flag(config, "attention_bias", True)  # Glm4Config's default
    return decoder(
        config,
        norm=rms_norm(config),
        placement="sandwich",
        ropes=(one,) * layers_of(config),
        biases=frozenset({"q", "k", "v"} if biased else ()),
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
            "gate": "mlp.gate_up_proj",
            "up": "mlp.gate_up_proj",
            "mlp_post_norm": "post_mlp_layernorm",
        },
    ),
)
