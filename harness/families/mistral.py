"""Mistral: Llama without biases, and a sliding window in every layer, unless the config says null.
Ministral 3: YaRN, and queries that grow with their position.
Mixtral: experts in every layer, a few for each token; the scores of these are normed."""

from __future__ import annotations

from harness.families.family import ATTENTION, EXPERTS, TRAINED, Family
from harness.families.options import Architecture
from harness.families.reading import decoder, layers_of, mixture, ropes_of
from harness.families.windows import everywhere
from harness.fields import Config, integer

ABSENT = 4096  # MistralConfig's default: absent is not null


def read(config: Config) -> Architecture:
    return decoder(config, windows=everywhere(config, layers_of(config), ABSENT))


def read_3(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 128
    ropes = ropes_of(config, kinds=("yarn",), grows=True)
    return decoder(config, ropes=ropes, windows=everywhere(config, layers_of(config)))


def read_mixtral(config: Config) -> Architecture:
    layers = layers_of(config)
    return decoder(
        config,
        windows=everywhere(config, layers),  # MixtralConfig's default is none
        experts=mixture(config, (True,) * layers, renormed=0.0, weights_wide=True),
    )


FAMILIES = (
    Family(model_type="mistral", classes=("MistralForCausalLM", "MistralModel"), read=read),
    Family(
        model_type="ministral3",
        classes=("Ministral3ForCausalLM", "Ministral3Model"),
        read=read_3,
    ),
    Family(
        model_type="mixtral",
        classes=("MixtralForCausalLM", "MixtralModel"),
        read=read_mixtral,
        layer=ATTENTION,
        sparse=EXPERTS,
        stored={r"\.block_sparse_moe\.": ".mlp."},
        each={
            "mlp.experts.gate_up_proj": ("mlp.experts.{}.w1.weight", "mlp.experts.{}.w3.weight"),
            "mlp.experts.down_proj": ("mlp.experts.{}.w2.weight",),
        },
        names={"num_local_experts": "num_experts"},
        harmless=TRAINED | {"router_jitter_noise"},
    ),
)
