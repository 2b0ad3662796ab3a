"""Latent attention, as a config of DeepSeek's describes it, and where transformers has its operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.families.family import LAYER
from harness.families.options import Latent, Norm, Rope
from harness.families.reading import Sizes
from harness.fields import Config, integer, wrong

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


def latent(config: Config) -> Latent:
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


def sizes(config: Config, mla: Latent) -> Sizes:
    """Hidden size, heads, KV heads, which are as many, and the size of a head's query.

    Raises:
        CheckpointError: a field is missing or absurd, or the config has fewer KV heads.
    """
    heads = integer(config, "num_attention_heads")
    given = config.get("num_key_value_heads")
    if given is not None and integer(config, "num_key_value_heads") != heads:
        raise wrong("every head has a key of its own", "num_key_value_heads", heads, given)
    return integer(config, "hidden_size"), heads, heads, mla.nope + mla.rope


def scale(mla: Latent, rope: Rope) -> float:
    """What scores are multiplied by: with YaRN, twice what is left out of cosines and sines."""
    found: float = (mla.nope + mla.rope) ** -0.5
    given = dict(rope.parameters)
    all_dims = given.get("mscale_all_dim", 0.0)
    if not all_dims or given["factor"] <= 1:
        return found
    longer = 0.1 * all_dims * math.log(given["factor"]) + 1.0
    return found * longer * longer
