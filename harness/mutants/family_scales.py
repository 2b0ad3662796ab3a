"""Scales, caps, windows, activations, biases and learned positions between families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

from harness.families.options import Architecture
from harness.mutants import windows
from harness.mutants.between import option
from harness.mutants.loading import changed
from harness.mutants.mutant import Around, Mutant, OperationChange, kinds
from harness.mutants.needs import OVER_WINDOW, PAIR, WIDE, WINDOWED, Need, at_least, bias
from harness.mutants.norms import MISSING

RESIDUAL = kinds("resid_mid", "resid_post")
GELUS: Mapping[str, str] = {"gelu": "gelu_pytorch_tanh", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
LEARNED = Need("architecture", lambda m: m.architecture.learned_positions > 0, "no positions are learned here")
NOT_BY_TYPE = Need(
    "architecture",
    lambda m: not windows.by_type(m.config),
    "window_missing and window_in_every_layer are those bugs here",
)
FACTOR = "https://github.com/OpenNMT/CTranslate2/pull/1882"


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


MUTANTS = (
    option(
        "scale_of_head_dim",
        "q . k / sqrt(head_dim)",
        "q . k times the scale of the config",
        kinds("probs"),
        lambda arch: replace(arch, scale=arch.head_dim**-0.5),
        "that is the scale here",
        "https://github.com/InternLM/lmdeploy/pull/2761",
        "https://github.com/onnxruntime/mobius/pull/548",
        "https://github.com/vllm-project/tpu-inference/pull/521",
        needs=(PAIR,),
    ),
    option(
        "score_cap_missing",
        "s",
        "cap tanh(s / cap)",
        kinds("probs"),
        lambda arch: replace(arch, score_cap=None),
        "scores are not capped here",
        "https://github.com/sgl-project/sglang/issues/33915",
        "https://github.com/vllm-project/vllm-metal/issues/665",
        needs=(PAIR,),
    ),
    option(
        "windows_inverted",
        "a window in the layers that have none, and in no other",
        "a window in the layers of the config",
        kinds("probs"),
        _windows_inverted,
        "window_layers_swapped is that bug here, or every layer has a window, or none",
        "https://github.com/huggingface/transformers/issues/40126",
        needs=(at_least(2),),
    ),
    option(
        "windows_ignored",
        "key <= query in every layer",
        "a window in the layers of the config",
        kinds("probs"),
        _windows(lambda slides: False),
        "no layer has a sliding window here",
        *windows.MISSING,
        needs=(WINDOWED, NOT_BY_TYPE, OVER_WINDOW),
    ),
    option(
        "windows_everywhere",
        "a window in every layer",
        "a window in the layers of the config",
        kinds("probs"),
        _windows(lambda slides: True),
        "every layer has a window here, or none",
        "https://github.com/huggingface/transformers/issues/35896",
        needs=(WINDOWED, NOT_BY_TYPE, OVER_WINDOW),
    ),
    option(
        "embed_scale_missing",
        "x = E[id]",
        "x = sqrt(hidden) E[id], or another factor",
        kinds("embed"),
        lambda arch: replace(arch, embed_scale=1.0),
        "the embedding is not scaled here",
        "https://github.com/marin-community/levanter/pull/978",
    ),
    option(
        "embed_scale_rounded",
        "x = bfloat16(sqrt(hidden)) E[id] in a wider model",
        "x = sqrt(hidden) E[id]",
        kinds("embed"),
        _rounded_scale,
        "the factor of the embedding is a bfloat16 number here",
        "https://github.com/google/gemma_pytorch/pull/67",
        "https://github.com/Lightning-AI/litgpt/issues/1031",
        needs=(WIDE,),
    ),
    option(
        "head_scaled_as_embedding",
        "logits = W h with the factor of the embedding, which is the head",
        "logits = W h",
        kinds("logits"),
        _head_as_embedding,
        "the head is not the embedding here, or that is not scaled",
        "https://github.com/mattn/tensai/pull/248",
    ),
    option(
        "logit_scale_missing",
        "W h",
        "W h times a factor of the config, or divided by it",
        kinds("logits"),
        lambda arch: replace(arch, logit_scale=1.0),
        "logits are not scaled here",
        FACTOR,
        "https://github.com/unslothai/unsloth/pull/1218",
        "https://github.com/vllm-project/vllm/pull/52158",
    ),
    option(
        "logit_cap_missing",
        "W h",
        "cap tanh(W h / cap)",
        kinds("logits"),
        lambda arch: replace(arch, logit_cap=None),
        "logits are not capped here",
        "https://github.com/ggml-org/llama.cpp/pull/8197",
    ),
    option(
        "residual_scale_missing",
        "x + f(x)",
        "x + m f(x)",
        RESIDUAL,
        lambda arch: replace(arch, residual_scale=1.0),
        "what is added to the residual stream is not scaled here",
        FACTOR,
    ),
    option(
        "gelu_of_another_kind",
        "GELU by tanh for the exact one, or the other way round",
        "the GELU of the config",
        kinds("act"),
        lambda arch: replace(arch, activation=GELUS.get(arch.activation, arch.activation)),
        "the activation is no GELU here",
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4661",
        "https://github.com/kyutai-labs/pocket-tts/pull/278",
    ),
    option(
        "gelu_as_silu",
        "silu",
        "the GELU of the config",
        kinds("act"),
        lambda arch: replace(arch, activation="silu" if arch.activation in GELUS else arch.activation),
        "the activation is no GELU here",
        "https://github.com/huggingface/candle/issues/3745",
        "https://github.com/NVIDIA/TensorRT-Model-Connect/pull/177",
    ),
    Mutant(
        "head_bias_missing",
        wrong="logits = W h",
        right="logits = W h + b",
        introduced=kinds("logits"),
        change=changed("logits", by=np.zeros_like, names="bias"),
        needs=bias("logits"),
        seen=("https://github.com/huggingface/transformers/issues/35625",),
    ),
    *(
        Mutant(
            f"{kind}_bias_missing",
            wrong=f"{kind} = W x",
            right=f"{kind} = W x + b",
            introduced=kinds(kind),
            change=changed(kind, by=np.zeros_like, names="bias"),
            needs=bias(kind),
            seen=("https://github.com/mlc-ai/mlc-llm/pull/3494",),
        )
        for kind in ("attn_out", "gate", "up", "mlp_out")
    ),
    Mutant(
        "positions_learned_shifted",
        wrong="P[position + 1]",
        right="P[position]",
        introduced=kinds("embed"),
        change=OperationChange(
            {"add_positions": Around(lambda add: lambda x, table, positions: add(x, table, positions + 1))}
        ),
        needs=(LEARNED,),
        seen=("https://github.com/EleutherAI/gpt-neox/pull/650",),
    ),
    Mutant(
        "positions_learned_missing",
        wrong="E[id]",
        right="E[id] + P[position]",
        introduced=kinds("embed"),
        change=OperationChange({"add_positions": MISSING}),
        needs=(LEARNED,),
        seen=("https://github.com/ml-explore/mlx-lm/pull/93",),
    ),
)
