"""Scales, caps, windows, activations, biases and learned positions between families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np

from harness.families.options import Architecture
from harness.mutants import windows
from harness.mutants.free import having
from harness.mutants.introduced import kinds
from harness.mutants.loading import changed, without_bias
from harness.mutants.masks import WINDOWS
from harness.mutants.mutant import Around, Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import OVER_WINDOW, PAIR, WIDE, WINDOWED, Need, at_least, bias, model_has
from harness.mutants.norms import MISSING

GELUS: Mapping[str, str] = {"gelu": "gelu_pytorch_tanh", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
LEARNED = model_has(lambda arch: arch.learned_positions > 0, "no positions are learned here")
NOT_BY_TYPE = Need(
    "architecture",
    lambda m: not windows.by_type(m.config),
    "window_missing and window_in_every_layer are those bugs here",
)
FACTOR = "OpenNMT/CTranslate2/pull/1882"


def _windows(choose: Callable[[bool], bool]) -> Callable[[Architecture], Architecture]:
    """The window in other layers: (whether a layer has it) -> whether it has it in the mutant."""

    def options(arch: Architecture) -> Architecture:
        width = next((window for window in arch.windows if window), None)
        return replace(
            arch, windows=tuple(width if choose(window is not None) else None for window in arch.windows)
        )

    return options


def _windows_inverted(arch: Architecture) -> Architecture:
    """Where layers differ in nothing else, it is `window_layers_swapped`."""
    mixed = len(set(arch.ropes)) > 1 and len(set(arch.windows)) > 1
    return _windows(lambda slides: not slides)(arch) if mixed else arch


def _rounded_scale(arch: Architecture) -> Architecture:
    return replace(arch, embed_scale=float(ml_dtypes.bfloat16(arch.embed_scale)))


def _head_as_embedding(arch: Architecture) -> Architecture:
    return replace(arch, logit_scale=arch.logit_scale * (arch.embed_scale if arch.tied_head else 1.0))


def _activated(swap: Callable[[str], str]) -> OptionChange:
    """Another activation in the place of a GELU: the config's -> what is done."""

    def options(arch: Architecture) -> Architecture:
        return replace(arch, activation=swap(arch.activation) if arch.activation in GELUS else arch.activation)

    return OptionChange(options, "the activation is no GELU here")


window = partial(
    Mutant,
    right="a window in the layers of the config",
    introduced=kinds("probs"),
    needs=(WINDOWED, NOT_BY_TYPE, OVER_WINDOW),
)
scores = partial(Mutant, introduced=kinds("probs"), needs=(PAIR,))
logits = partial(Mutant, introduced=kinds("logits"))
learned = partial(Mutant, introduced=kinds("embed"), needs=(LEARNED,))
gelu = partial(Mutant, right="the GELU of the config", introduced=kinds("act"))
MUTANTS = (
    scores(
        "scale_of_head_dim",
        wrong="q . k / sqrt(head_dim)",
        right="q . k times the scale of the config",
        change=OptionChange(lambda arch: replace(arch, scale=arch.head_dim**-0.5), "that is the scale here"),
        seen=github(
            "InternLM/lmdeploy/pull/2761", "onnxruntime/mobius/pull/548", "vllm-project/tpu-inference/pull/521"
        ),
    ),
    scores(
        "score_cap_missing",
        wrong="s",
        right="cap tanh(s / cap)",
        change=OptionChange(having(score_cap=None), "scores are not capped here"),
        seen=github("sgl-project/sglang/issues/33915", "vllm-project/vllm-metal/issues/665"),
    ),
    window(
        "windows_inverted",
        wrong="a window in the layers that have none, and in no other",
        change=OptionChange(
            _windows_inverted, "window_layers_swapped is that bug here, or every layer has a window, or none"
        ),
        needs=(at_least(2),),
        seen=github("huggingface/transformers/issues/40126"),
    ),
    window(
        "windows_ignored",
        wrong="key <= query in every layer",
        change=OptionChange(_windows(lambda slides: False), "no layer has a sliding window here"),
        seen=WINDOWS,
    ),
    window(
        "windows_everywhere",
        wrong="a window in every layer",
        change=OptionChange(_windows(lambda slides: True), "every layer has a window here, or none"),
        seen=github("huggingface/transformers/issues/35896"),
    ),
    Mutant(
        "embed_scale_missing",
        wrong="x = E[id]",
        right="x = sqrt(hidden) E[id], or another factor",
        introduced=kinds("embed"),
        change=OptionChange(having(embed_scale=1.0), "the embedding is not scaled here"),
        seen=github("marin-community/levanter/pull/978"),
    ),
    Mutant(
        "embed_scale_rounded",
        wrong="x = bfloat16(sqrt(hidden)) E[id] in a wider model",
        right="x = sqrt(hidden) E[id]",
        introduced=kinds("embed"),
        change=OptionChange(_rounded_scale, "the factor of the embedding is a bfloat16 number here"),
        needs=(WIDE,),
        seen=github("google/gemma_pytorch/pull/67", "Lightning-AI/litgpt/issues/1031"),
    ),
    logits(
        "head_scaled_as_embedding",
        wrong="logits = W h with the factor of the embedding, which is the head",
        right="logits = W h",
        change=OptionChange(_head_as_embedding, "the head is not the embedding here, or that is not scaled"),
        seen=github("mattn/tensai/pull/248"),
    ),
    logits(
        "logit_scale_missing",
        wrong="W h",
        right="W h times a factor of the config, or divided by it",
        change=OptionChange(having(logit_scale=1.0), "logits are not scaled here"),
        seen=github(FACTOR, "unslothai/unsloth/pull/1218", "vllm-project/vllm/pull/52158"),
    ),
    logits(
        "logit_cap_missing",
        wrong="W h",
        right="cap tanh(W h / cap)",
        change=OptionChange(having(logit_cap=None), "logits are not capped here"),
        seen=github("ggml-org/llama.cpp/pull/8197"),
    ),
    Mutant(
        "residual_scale_missing",
        wrong="x + f(x)",
        right="x + m f(x)",
        introduced=kinds("resid_mid", "resid_post"),
        change=OptionChange(having(residual_scale=1.0), "what is added to the residual stream is not scaled here"),
        seen=github(FACTOR),
    ),
    gelu(
        "gelu_of_another_kind",
        wrong="GELU by tanh for the exact one, or the other way round",
        change=_activated(GELUS.__getitem__),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4661", "kyutai-labs/pocket-tts/pull/278"),
    ),
    gelu(
        "gelu_as_silu",
        wrong="silu",
        change=_activated(lambda own: "silu"),
        seen=github("huggingface/candle/issues/3745", "NVIDIA/TensorRT-Model-Connect/pull/177"),
    ),
    logits(
        "head_bias_missing",
        wrong="logits = W h",
        right="logits = W h + b",
        change=changed("logits", by=np.zeros_like, names="bias"),
        needs=bias("logits"),
        seen=github("huggingface/transformers/issues/35625"),
    ),
    *(
        without_bias(f"{kind}_bias_missing", kind, seen=github("mlc-ai/mlc-llm/pull/3494"))
        for kind in ("attn_out", "gate", "up", "mlp_out")
    ),
    learned(
        "positions_learned_shifted",
        wrong="P[position + 1]",
        right="P[position]",
        change=OperationChange(
            {"add_positions": Around(lambda add: lambda x, table, positions: add(x, table, positions + 1))}
        ),
        seen=github("EleutherAI/gpt-neox/pull/650"),
    ),
    learned(
        "positions_learned_missing",
        wrong="E[id]",
        right="E[id] + P[position]",
        change=OperationChange({"add_positions": MISSING}),
        seen=github("ml-explore/mlx-lm/pull/93"),
    ),
)
