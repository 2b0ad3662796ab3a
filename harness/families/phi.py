"""Phi 1 and 2: attention and MLP side by side after one LayerNorm, biases everywhere, the head's among them."""

from __future__ import annotations

from harness.families.family import LAYER, MODEL, Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, decoder, heads_of, layer_norm, layers_of
from harness.families.rope import rope
from harness.fields import Config


def read(config: Config) -> Architecture:
    one = rope(config, heads_of(config)[-1], partial=0.5)  # PhiConfig's default
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel",
        ropes=(one,) * layers_of(config),
        gated=False,
        biases=ATTENTION | {"up", "mlp_out", "logits"},
    )


FAMILIES = (
    Family(
        model_type="phi",
        classes=("PhiForCausalLM", "PhiModel"),
        read=read,
        activation="mlp.activation_fn",
        layer={
            **{kind: path for kind, path in LAYER.items() if kind not in ("gate", "mlp_norm")},
            "attn_out": "self_attn.dense",
            "up": "mlp.fc1",
            "mlp_out": "mlp.fc2",
        },
        model={**MODEL, "final_norm": "model.final_layernorm"},
    ),
)
