"""Phi 3 and 4: Llama with one matrix for queries, keys and values, one for gate and up, and perhaps a window."""

from __future__ import annotations

from harness.families.family import LAYER, Family
from harness.families.longrope import longrope
from harness.families.options import Architecture
from harness.families.reading import decoder, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.families.windows import everywhere
from harness.fields import Config

FUSED = dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj") | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")


def read(config: Config) -> Architecture:
    layers, head_dim = layers_of(config), heads_of(config)[-1]
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(longrope(config, head_dim) or rope(config, head_dim, partial=1.0),) * layers,
        windows=everywhere(config, layers),
    )


FAMILIES = (
    Family(
        model_type="phi3",
        classes=("Phi3ForCausalLM", "Phi3Model"),
        read=read,
        layer={**LAYER, **FUSED},
        activation="mlp.activation_fn",
        # Without longrope it changes nothing.
        harmless=frozenset({"original_max_position_embeddings"}),
    ),
)
