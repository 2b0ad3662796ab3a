"""Granite: Llama with four multipliers."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, MLP, decoder, factor, flag, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config


def read(config: Config) -> Architecture:
    # GraniteConfig's defaults.
    attention, mlp = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(rope(config, heads_of(config)[-1]),) * layers_of(config),
        biases=(ATTENTION if attention else frozenset()) | (MLP if mlp else frozenset()),
        scale=factor(config, "attention_multiplier"),
        embed_scale=factor(config, "embedding_multiplier"),
        residual_scale=factor(config, "residual_multiplier"),
        logit_scale=1 / factor(config, "logits_scaling"),
    )


FAMILIES = (Family(model_type="granite", classes=("GraniteForCausalLM", "GraniteModel"), read=read),)
