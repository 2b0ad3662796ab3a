"""Qwen3: a norm of every head's queries and keys before RoPE, and a head_dim of its own."""

from __future__ import annotations

from harness.families.family import HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, decoder, flag, layers_of, rms_norm
from harness.families.rope import rope
from harness.families.windows import windows_of
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    layers = layers_of(config)
    # Where there is none, transformers takes 128 and not hidden_size / num_attention_heads: it has to be there.
    head_dim = integer(config, "head_dim")
    biased = flag(config, "attention_bias", False)  # Qwen3Config's default
    return decoder(
        config,
        norm=rms_norm(config),
        qk_norm=rms_norm(config),
        ropes=(rope(config, head_dim, kinds=("default", "yarn")),) * layers,
        windows=windows_of(config, layers),
        biases=ATTENTION if biased else frozenset(),
    )


FAMILIES = (
    Family(
        model_type="qwen3",
        classes=("Qwen3ForCausalLM", "Qwen3Model"),
        read=read,
        layer={**LAYER, **HEAD_NORMS},
        only={"use_qk_norm": True},
    ),
)
