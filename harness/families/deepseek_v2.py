"""DeepSeek-V2: latent attention, turned as complex numbers, and experts of which the scores are not normed."""

from __future__ import annotations

from dataclasses import replace

from harness.families import latent
from harness.families.deepseek_v3 import HARMLESS
from harness.families.family import EACH, EXPERTS, SHARED, Family
from harness.families.options import Architecture, Experts
from harness.families.reading import MLP, decoder, deepseek_mixture, flag, in_groups, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config, wrong

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
        experts=_experts(config),
    )


def _experts(config: Config) -> Experts | None:
    method = config.get("topk_method")
    if method not in (None, GREEDY, LIMITED):
        problem = "experts are chosen in a way that is not known here"
        raise wrong(problem, "topk_method", f"{GREEDY} or {LIMITED}", method)
    found = deepseek_mixture(config)
    if method != LIMITED:
        for field in ("n_group", "topk_group"):  # where experts of any group will do, they say nothing
            config.get(field)
        return found
    return in_groups(config, found)


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
        only={"scoring_func": "softmax", "moe_layer_freq": 1, "ep_size": 1, "norm_topk_prob": False},
    ),
)
