"""Families that are not supported, by `model_type`: why, and what to do. No name of one is guessed at."""

from __future__ import annotations

from collections.abc import Mapping

INNER = "check its language model, saved alone: model.language_model.save_pretrained(DIR), with the head"
EXPERTS = "a mixture of experts chooses, and how a choice is judged is not settled here yet"
WAIT = "check a dense model of the same family, or the port's dense layers, until it is"
MORE = "more than one state passes from layer to layer"
NO_TABLE = "no table of taps can say what feeds what; check its operations in tests of your own"

_EXPERTS = """
    olmoe phimoe dbrx jamba
"""
_INNER = """
    gemma3 mistral3 llava qwen2_vl qwen2_5_vl qwen3_vl mllama paligemma gemma4
"""
KIMI = (
    "it is a deepseek_v3 by another name, and transformers knows it by that one alone",
    "in a copy of config.json write model_type deepseek_v3, and remove auto_map",
)
OTHERS: Mapping[str, tuple[str, str]] = {
    "kimi_k2": KIMI,
    **dict.fromkeys(_EXPERTS.split(), (EXPERTS, WAIT)),
    **dict.fromkeys(_INNER.split(), ("this is a model of more than text", INNER)),
    "gemma3n": (MORE, NO_TABLE),
    "gemma3n_text": (MORE, NO_TABLE),
    "gemma4_text": (f"in E2B and E4B {MORE}, and the others have no table here yet", NO_TABLE),
    "llama4": ("its attention is chunked, and its experts scale their input", NO_TABLE),
    "llama4_text": ("its attention is chunked, and its experts scale their input", NO_TABLE),
    "gptj": ("its attention in transformers has no place where probabilities can be taken", NO_TABLE),
    "qwen3_next": ("most of its layers are no attention", NO_TABLE),
    "qwen3_5_text": ("most of its layers are no attention", NO_TABLE),
}
