"""Gemma: norm weights from 0, a scaled and tied embedding. Gemma 2: norms on both sides, caps and windows.
Gemma 3: normed queries and keys instead of caps on scores, and another theta where there is a window."""

from __future__ import annotations

from typing import Any

from harness.families import HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture, Norm, Rope
from harness.families.reading import biased, cap, decoder, factor, flag, heads_of, rms_norm, ropes_of
from harness.families.rope import ropes_by_type
from harness.families.windows import by_pattern, widths
from harness.fields import Config, integer

TANH = "gelu_pytorch_tanh"


def _norm(config: Config) -> Norm:
    return rms_norm(config, plus_one=True, weighted_wide=True)


def _read(config: Config, ropes: tuple[Rope, ...] | None = None, **options: Any) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 256
    return decoder(
        config,
        norm=_norm(config),
        ropes=ropes or ropes_of(config),
        embed_scale=heads_of(config)[0] ** 0.5,
        biases=biased(config),  # GemmaConfig's default is none
        tied_head=flag(config, "tie_word_embeddings", True),  # GemmaConfig's default; published configs lack it
        activation=TANH,
        **options,
    )


def read(config: Config) -> Architecture:
    return _read(config)


def _sandwich(config: Config, slides: tuple[bool, ...], **options: Any) -> Architecture:
    return _read(
        config,
        placement="sandwich",
        scale=factor(config, "query_pre_attn_scalar") ** -0.5,
        logit_cap=cap(config, "final_logit_softcapping"),
        windows=widths(config, slides),
        **options,
    )


def read_2(config: Config) -> Architecture:
    # Published configs have no layer_types: Gemma2Config alternates, beginning with a window.
    return _sandwich(config, by_pattern(config, 2), score_cap=cap(config, "attn_logit_softcapping"))


def read_3(config: Config) -> Architecture:
    slides, kinds = by_pattern(config, 6), ("default", "linear")  # Gemma3TextConfig's default
    ropes = ropes_by_type(config, slides, heads_of(config)[-1], "rope_local_base_freq", kinds=kinds)
    return _sandwich(config, slides, ropes=ropes, qk_norm=_norm(config))


SANDWICH = {
    **LAYER,
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
# Old configs say `gelu`, and mean its approximation: so GemmaConfig reads it.
ONLY = {"use_bidirectional_attention": False, "hidden_activation": TANH, "hidden_act": TANH}
CACHE = frozenset({"cache_implementation"})
FAMILIES = (
    Family(model_type="gemma", classes=("GemmaForCausalLM", "GemmaModel"), read=read, only=ONLY, harmless=CACHE),
    Family(
        model_type="gemma2",
        classes=("Gemma2ForCausalLM", "Gemma2Model"),
        read=read_2,
        layer=SANDWICH,
        only=ONLY,
        harmless=CACHE,
    ),
    Family(
        model_type="gemma3_text",
        classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
        read=read_3,
        layer={**SANDWICH, **HEAD_NORMS},
        heads_first=True,
        ropes_by_type=True,
        only={**ONLY, "attn_logit_softcapping": None},
        harmless=CACHE | {"_sliding_window_pattern"},  # it comes with layer_types
    ),
)
