"""Qwen2 and Qwen2.5: biases on queries, keys and values; a sliding window in the layers that have one; YaRN."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture
from harness.families.reading import decoder, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.families.windows import windows_of
from harness.fields import Config


def read(config: Config) -> Architecture:
    layers, head_dim = layers_of(config), heads_of(config)[-1]
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(rope(config, head_dim, kinds=("default", "yarn")),) * layers,
        windows=windows_of(config, layers),
        biases=frozenset({"q", "k", "v"}),
    )


FAMILIES = (
    Family(
        model_type="qwen2",
        classes=("Qwen2ForCausalLM", "Qwen2Model"),
        read=read,
        only={"attention_bias": True, "qkv_bias": True},
    ),
)
