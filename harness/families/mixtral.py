"""Mixtral: experts in every layer, a few for each token; the scores of these are normed."""

from __future__ import annotations

from harness.families.family import EXPERTS, LAYER, Family
from harness.families.options import Architecture, Experts
from harness.families.reading import decoder, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.families.windows import everywhere
from harness.fields import Config, integer


def read(config: Config) -> Architecture:
    layers = layers_of(config)
    count = integer(config, "num_local_experts")
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(rope(config, heads_of(config)[-1]),) * layers,
        # MixtralConfig's default is none.
        windows=everywhere(config, layers),
        experts=Experts(
            layers=(True,) * layers,
            count=count,
            chosen=integer(config, "num_experts_per_tok", most=count),
            intermediate=integer(config, "intermediate_size"),
            renormed=0.0,
            weights_wide=True,
        ),
    )


FAMILIES = (
    Family(
        model_type="mixtral",
        classes=("MixtralForCausalLM", "MixtralModel"),
        read=read,
        layer={kind: path for kind, path in LAYER.items() if not path.startswith("mlp.")},
        sparse=EXPERTS,
        activation="mlp.experts.act_fn",
        stored={r"\.block_sparse_moe\.": ".mlp."},
        each={
            "mlp.experts.gate_up_proj": ("mlp.experts.{}.w1.weight", "mlp.experts.{}.w3.weight"),
            "mlp.experts.down_proj": ("mlp.experts.{}.w2.weight",),
        },
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
    ),
)
