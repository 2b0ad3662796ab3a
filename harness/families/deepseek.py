"""Latent attention, and experts in all layers but the first few.
DeepSeek-V2: turned as complex numbers, and the experts' scores are not normed.
DeepSeek-V3, and Kimi K2, which is one: experts chosen in groups, by a sigmoid with a correction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from harness.families import CORRECTED, EACH, EXPERTS, LAYER, SHARED, TRAINED, Family
from harness.families.neutral import FP8
from harness.families.options import Architecture, Experts, Latent, Norm, Rope
from harness.families.reading import (
    MLP,
    SIGMOID_ONLY,
    Sizes,
    biased,
    decoder,
    deepseek_mixture,
    flag,
    in_groups,
    sigmoid_mixture,
)
from harness.families.rope import rope
from harness.families.windows import layers_of
from harness.fields import Config, integer, wrong

HARMLESS = TRAINED | {"aux_loss_alpha", "seq_aux"}
GREEDY, LIMITED = "greedy", "group_limited_greedy"
# `DeepseekV2RMSNorm` and `DeepseekV3RMSNorm` without an eps: the config's is that of the other norms alone.
NORM = Norm(1e-6)
PATHS: Mapping[str, str] = {
    **{kind: path for kind, path in LAYER.items() if kind not in ("q", "k", "v")},
    "q_latent": "self_attn.q_a_proj",
    "q_latent_norm": "self_attn.q_a_layernorm",
    "q": "self_attn.q_b_proj",
    "kv_latent": "self_attn.kv_a_proj_with_mqa",
    "k_pe": "self_attn.kv_a_proj_with_mqa",
    "kv_latent_norm": "self_attn.kv_a_layernorm",
    "kv": "self_attn.kv_b_proj",
}
UNDIVIDED: Mapping[str, str] = {"q": "self_attn.q_proj"}
BIASED = frozenset({"q_latent", "kv_latent", "k_pe", "attn_out"})


def _latent(config: Config) -> Latent:
    """The sizes of latent attention; a rank of queries that is null is none, and absent is refused.

    Raises:
        CheckpointError: a field is missing or absurd, or contradicts another.
    """
    without = "q_lora_rank" in config and config["q_lora_rank"] is None
    nope, rope = integer(config, "qk_nope_head_dim"), integer(config, "qk_rope_head_dim")
    if rope % 2:
        raise wrong("RoPE turns pairs of dimensions", "qk_rope_head_dim", "an even number", rope)
    # transformers writes both, and computes both anew, whatever is there.
    for field, size in (("head_dim", rope), ("qk_head_dim", nope + rope)):
        if config.get(field) is not None and integer(config, field) != size:
            raise wrong(
                "the config gives a size that follows from others, and differently", field, size, config[field]
            )
    return Latent(
        q_rank=None if without else integer(config, "q_lora_rank"),
        kv_rank=integer(config, "kv_lora_rank"),
        nope=nope,
        rope=rope,
        value=integer(config, "v_head_dim"),
        norm=NORM,
    )


def _sizes(config: Config, mla: Latent) -> Sizes:
    """Hidden size, heads, KV heads, which are as many, and the size of a head's query.

    Raises:
        CheckpointError: a field is missing or absurd, or the config has fewer KV heads.
    """
    heads = integer(config, "num_attention_heads")
    given = config.get("num_key_value_heads")
    if given is not None and integer(config, "num_key_value_heads") != heads:
        raise wrong("every head has a key of its own", "num_key_value_heads", heads, given)
    return integer(config, "hidden_size"), heads, heads, mla.nope + mla.rope


def _scale(mla: Latent, rope: Rope) -> float:
    """What scores are multiplied by: with YaRN, twice what is left out of cosines and sines."""
    scale: float = (mla.nope + mla.rope) ** -0.5
    given = dict(rope.parameters)
    all_dims = given.get("mscale_all_dim", 0.0)
    if not all_dims or given["factor"] <= 1:
        return scale
    longer = 0.1 * all_dims * math.log(given["factor"]) + 1.0
    return scale * longer * longer


def _read(config: Config, rope: Rope, mla: Latent, more: frozenset[str], experts: Experts | None) -> Architecture:
    """The decoder of both; defaults are those of their configs."""
    return decoder(
        config,
        sizes=_sizes(config, mla),
        ropes=(rope,) * layers_of(config),
        scale=_scale(mla, rope),
        biases=biased(config, BIASED) | more,
        tied_head=flag(config, "tie_word_embeddings", False),
        mla=mla,
        experts=experts,
    )


def read_2(config: Config) -> Architecture:
    mla = _latent(config)
    rotation = rope(config, mla.rope, kinds=("default", "yarn"), interleaved=True, wide="all")
    of_mlps = biased(config, MLP | {"shared_gate", "shared_up", "shared_out"}, "mlp_bias")
    return _read(config, replace(rotation, last=True), mla, of_mlps, _experts(config))


def read_3(config: Config) -> Architecture:
    mla = _latent(config)
    interleaved = flag(config, "rope_interleave", True)
    rotation = rope(config, mla.rope, kinds=("default", "yarn"), interleaved=interleaved)
    rotation = replace(rotation, deinterleaved=interleaved, last=True)
    return _read(config, rotation, mla, frozenset(), sigmoid_mixture(config))


def _experts(config: Config) -> Experts | None:
    method = config.get("topk_method")
    if method not in (None, GREEDY, LIMITED):
        problem = "experts are chosen in a way that is not known here"
        raise wrong(problem, "topk_method", f"{GREEDY} or {LIMITED}", method)
    experts = deepseek_mixture(config)
    if method != LIMITED:
        for field in ("n_group", "topk_group"):  # where experts of any group will do, they say nothing
            config.get(field)
        return experts
    return in_groups(config, experts)


FAMILIES = (
    Family(
        model_type="deepseek_v2",
        classes=("DeepseekV2ForCausalLM", "DeepseekV2Model"),
        read=read_2,
        layer=PATHS,
        undivided=UNDIVIDED,
        sparse={**EXPERTS, **SHARED},
        each=EACH,
        harmless=HARMLESS,
        # Weights are as they are, whatever `norm_topk_prob` says.
        only={"scoring_func": "softmax", "moe_layer_freq": 1, "ep_size": 1, "norm_topk_prob": False},
    ),
    Family(
        model_type="deepseek_v3",
        classes=("DeepseekV3ForCausalLM", "DeepseekV3Model"),
        read=read_3,
        layer=PATHS,
        undivided=UNDIVIDED,
        sparse={**EXPERTS, **CORRECTED, **SHARED},
        each=EACH,
        # The layer for the token after the next, which transformers does not run.
        stored={r"^model\.layers\.61\.": None},
        quantised=(FP8,),
        harmless=HARMLESS,
        only=SIGMOID_ONLY,
    ),
)
