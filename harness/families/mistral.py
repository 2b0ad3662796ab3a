"""Mistral: Llama without biases, and a sliding window in every layer, unless the config says null.
Ministral 3: YaRN, and queries that grow with their position."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture, Rope
from harness.families.reading import decoder, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.families.windows import everywhere
from harness.fields import Config, integer

ABSENT = 4096  # MistralConfig's default: absent is not null


def read(config: Config) -> Architecture:
    return _read(config, rope(config, heads_of(config)[-1]), ABSENT)


def read_3(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 128
    return _read(config, rope(config, heads_of(config)[-1], kinds=("yarn",), grows=True), None)


def _read(config: Config, one: Rope, absent: int | None) -> Architecture:
    layers = layers_of(config)
    return decoder(
        config, norm=rms_norm(config), ropes=(one,) * layers, windows=everywhere(config, layers, absent)
    )


FAMILIES = (
    Family(model_type="mistral", classes=("MistralForCausalLM", "MistralModel"), read=read),
    Family(
        model_type="ministral3",
        classes=("Ministral3ForCausalLM", "Ministral3Model"),
        read=read_3,
    ),
)
