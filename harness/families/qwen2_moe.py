"""Qwen2's mixtures of experts, and Qwen1.5-MoE: beside those it chooses, a token goes to one that is gated."""

from __future__ import annotations

from harness.families.family import EACH, EXPERTS, LAYER, Family
from harness.families.options import Architecture, Windows
from harness.families.reading import decoder, flag, heads_of, layers_of, mixture, rms_norm, sparse_layers
from harness.families.rope import rope
from harness.families.windows import by_layer_types, widths
from harness.fields import GUESS, Config, integer, wrong


def _windows(config: Config, layers: int) -> Windows:
    """By layer types alone: without them transformers windows every other layer, and other stacks do not."""
    used, slides = flag(config, "use_sliding_window", False), by_layer_types(config, layers)
    for field in ("sliding_window", "max_window_layers"):
        config.get(field)  # where no window is used, they say nothing
    if not used:
        return (None,) * layers
    if slides is None:
        problem = "the config does not say which layers have the sliding window"
        raise wrong(problem, "layer_types", "the type of every layer", None, GUESS)
    return widths(config, slides)


def read(config: Config) -> Architecture:
    layers = layers_of(config)
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(rope(config, heads_of(config)[-1], kinds=("default", "yarn")),) * layers,
        windows=_windows(config, layers),
        biases=frozenset({"q", "k", "v"} if flag(config, "qkv_bias", True) else ()),  # Qwen2MoeConfig's default
        experts=mixture(
            config,
            sparse_layers(config, layers),
            count="num_experts",
            intermediate="moe_intermediate_size",
            renormed=0.0 if flag(config, "norm_topk_prob", False) else None,  # and this one
            shared=integer(config, "shared_expert_intermediate_size"),
            shared_gated=True,
        ),
    )


FAMILIES = (
    Family(
        model_type="qwen2_moe",
        classes=("Qwen2MoeForCausalLM", "Qwen2MoeModel"),
        read=read,
        layer=LAYER,
        sparse={
            **EXPERTS,
            "shared_gate": "mlp.shared_expert.gate_proj",
            "shared_up": "mlp.shared_expert.up_proj",
            "shared_out": "mlp.shared_expert.down_proj",
            "shared_weight": "mlp.shared_expert_gate",
        },
        each=EACH,
        names={"num_experts": "num_local_experts"},  # as transformers 5 writes it
        harmless=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    ),
)
