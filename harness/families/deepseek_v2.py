"""DeepSeek-V2: latent attention, turned as complex numbers, and experts of which the scores are not normed."""

from __future__ import annotations

from dataclasses import replace

from harness.families import latent
from harness.families.deepseek_v3 import HARMLESS, grouped, sparse_layers
from harness.families.family import EACH, EXPERTS, SHARED, Family
from harness.families.options import Architecture, Experts
from harness.families.reading import MLP, count, decoder, factor, flag, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config, integer, wrong

GREEDY, LIMITED = "greedy", "group_limited_greedy"


def read(config: Config) -> Architecture:
    mla, layers = latent.latent(config), layers_of(config)
    one = rope(config, mla.rope, kinds=("default", "yarn"), interleaved=True, wide="all")
    one = replace(one, last=True)
    # The defaults are those of DeepseekV2Config.
    biases = latent.BIASED if flag(config, "attention_bias", False) else frozenset()
    if flag(config, "mlp_bias", False):
        biases |= MLP | {"shared_gate", "shared_up", "shared_out"}
    return decoder(
        config,
        sizes=latent.sizes(config, mla),
        norm=rms_norm(config),
        ropes=(one,) * layers,
        scale=latent.scale(mla, one),
        biases=biases,
        tied_head=flag(config, "tie_word_embeddings", False),
        mla=mla,
        experts=_experts(config, layers),
    )


def _experts(config: Config, layers: int) -> Experts | None:
    sparse, method = sparse_layers(config, layers, 0), config.get("topk_method")
    if method not in (None, GREEDY, LIMITED):
        raise wrong(
            "experts are chosen in a way that is not known here", "topk_method", f"{GREEDY} or {LIMITED}", method
        )
    if not any(sparse):
        return None
    limited = method == LIMITED
    for field in ("n_group", "topk_group"):  # where any group will do, they say nothing
        config.get(field)
    return grouped(
        Experts(
            layers=sparse,
            count=integer(config, "n_routed_experts"),
            chosen=integer(config, "num_experts_per_tok"),
            intermediate=integer(config, "moe_intermediate_size"),
            groups=integer(config, "n_group") if limited else 1,
            chosen_groups=integer(config, "topk_group") if limited else 1,
            factor=1.0 if config.get("routed_scaling_factor") is None else factor(config, "routed_scaling_factor"),
            logits_wide=True,
            weights_wide=True,
            shared=integer(config, "moe_intermediate_size") * count(config, "n_shared_experts", 2),
        )
    )


FAMILIES = (
    Family(
        model_type="deepseek_v2",
        classes=("DeepseekV2ForCausalLM", "DeepseekV2Model"),
        read=read,
        layer=latent.PATHS,
        undivided=latent.UNDIVIDED,
        sparse={**EXPERTS, **SHARED},
        each=EACH,
        harmless=HARMLESS,
        # Weights are as they are, whatever `norm_topk_prob` says.
        only={"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False},
    ),
)
