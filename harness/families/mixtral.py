"""Mixtral: experts in every layer, a few for each token; the scores of these are normed."""

from __future__ import annotations

from harness.families.family import ATTENTION, EXPERTS, Family
from harness.families.options import Architecture
from harness.families.reading import decoder, heads_of, layers_of, mixture, rms_norm
from harness.families.rope import rope
from harness.families.windows import everywhere
from harness.fields import Config


def read(config: Config) -> Architecture:
    layers = layers_of(config)
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(rope(config, heads_of(config)[-1]),) * layers,
        windows=everywhere(config, layers),  # MixtralConfig's default is none
        experts=mixture(config, (True,) * layers, renormed=0.0, weights_wide=True),
    )


FAMILIES = (
    Family(
        model_type="mixtral",
        classes=("MixtralForCausalLM", "MixtralModel"),
        read=read,
        layer=ATTENTION,
        sparse=EXPERTS,
        stored={r"\.block_sparse_moe\.": ".mlp."},
        each={
            "mlp.experts.gate_up_proj": ("mlp.experts.{}.w1.weight", "mlp.experts.{}.w3.weight"),
            "mlp.experts.down_proj": ("mlp.experts.{}.w2.weight",),
        },
        names={"num_local_experts": "num_experts"},
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
    ),
)
