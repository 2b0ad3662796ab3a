"""Phi 1 and 2: attention and MLP side by side after one LayerNorm, biases everywhere, the head's among them."""

from __future__ import annotations

from harness.families.family import LAYER, MODEL, Family
from harness.families.options import Architecture, Norm
from harness.families.reading import ATTENTION, EPS, decoder, heads_of, layers_of
from harness.families.rope import rope
from harness.fields import Config, number


def read(config: Config) -> Architecture:
    one = rope(config, heads_of(config)[-1], partial=0.5)  # PhiConfig's default
    return decoder(
        config,
        norm=Norm(number(config, "layer_norm_eps", *EPS), bias=True, centered=True, weighted_wide=True),
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
