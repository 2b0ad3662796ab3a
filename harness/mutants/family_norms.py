"""Norms between families: `1 +` the weight, LayerNorm, norms after attention and MLP, of queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from harness.families.options import Architecture
from harness.mutants.introduced import EVERY_NORM, HEAD_NORMS, NORMS, kinds
from harness.mutants.loading import exchanged
from harness.mutants.mutant import Around, Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import ROUNDED, has, model_has, values, varied
from harness.mutants.norms import MISSING

NO_MEAN = "no norm here subtracts a mean"
PLUS_ONE = model_has(lambda arch: arch.norm.plus_one, "norm weights are stored as they are here")
CENTERED = model_has(lambda arch: arch.norm.centered, NO_MEAN)
POST_NORMS = {"attn_post_norm": MISSING, "mlp_post_norm": MISSING}
QK_NORM = "q, k = norm(q), norm(k), before RoPE"
LAYER_NORM = "w (x - mean) / sqrt(var + eps) + b"


def norms_having(**options: Any) -> Callable[[Architecture], Architecture]:
    """The norms with these options."""
    return lambda arch: replace(
        arch, norm=replace(arch.norm, **options), qk_norm=arch.qk_norm and replace(arch.qk_norm, **options)
    )


def _with_weight(change: Callable[[np.ndarray], np.ndarray]) -> Around:
    """A norm with another weight."""
    return Around(lambda norm: lambda x, weight, *more: norm(x, change(weight), *more))


def _of_a_sample(norm: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The variance over N - 1: what comes before the weight is smaller by the root of (N - 1) / N."""

    def wrong(x: np.ndarray, weight: np.ndarray, *more: float) -> np.ndarray:
        return norm(x, weight * ((x.shape[-1] - 1) / x.shape[-1]) ** 0.5, *more)

    return wrong


of_norms = partial(Mutant, introduced=EVERY_NORM)
of_heads = partial(Mutant, right=QK_NORM, introduced=HEAD_NORMS)
MUTANTS = (
    of_norms(
        "norm_plus_one_missing",
        wrong="w x / rms(x)",
        right="(1 + w) x / rms(x)",
        change=OptionChange(norms_having(plus_one=False), "norm weights are stored as they are here"),
        seen=github("ggml-org/llama.cpp/pull/5631", "utensils/mold/pull/1078"),
    ),
    of_norms(
        "norm_plus_one_doubled",
        wrong="(2 + w) x / rms(x): a converter had added the 1",
        right="(1 + w) x / rms(x)",
        change=OperationChange(dict.fromkeys(sorted(EVERY_NORM), _with_weight(lambda weight: weight + 1))),
        needs=(PLUS_ONE,),
        seen=github("vllm-project/vllm/pull/31464", "NeuraLegion/shainet/pull/176"),
    ),
    of_norms(
        "norm_cast_early",
        wrong="w cast(x / rms(x)), as in Llama",
        right="cast(w x / rms(x))",
        change=OptionChange(norms_having(weighted_wide=False), "the weight multiplies after the cast here"),
        needs=(ROUNDED,),
        seen=github("huggingface/transformers/pull/29402"),
    ),
    of_norms(
        "layer_norm_not_centered",
        wrong="w x / rms(x) + b",
        right=LAYER_NORM,
        change=OptionChange(norms_having(centered=False), NO_MEAN),
    ),
    of_norms(
        "layer_norm_sample_variance",
        wrong="the variance over N - 1",
        right="the variance over N",
        change=OperationChange(dict.fromkeys(sorted(EVERY_NORM), Around(_of_a_sample))),
        needs=(CENTERED,),
        seen=github("LBANN/lbann/pull/2024", "allenai/allennlp/pull/953"),
    ),
    Mutant(
        "layer_norm_bias_missing",
        wrong="w (x - mean) / sqrt(var + eps)",
        right=LAYER_NORM,
        introduced=NORMS,
        change=OptionChange(
            lambda arch: replace(arch, norm=replace(arch.norm, bias=False)), "norms have no bias here"
        ),
        needs=(varied("final_norm"),),
        seen=github("baidu-baige/LoongForge/pull/109"),
    ),
    Mutant(
        "post_norms_missing",
        wrong="x + f(norm(x))",
        right="x + norm(f(norm(x)))",
        introduced=kinds(*POST_NORMS),
        change=OperationChange(POST_NORMS),
        needs=(has("attn_post_norm"),),
        seen=github("google/flax/issues/4567", "google/tunix/pull/596"),
    ),
    Mutant(
        "post_norm_weights_swapped",
        wrong="the norms after attention and before the MLP have each other's weights",
        right="each has its own",
        introduced=kinds("attn_post_norm", "mlp_norm"),
        change=exchanged(attn_post_norm="mlp_norm"),
        needs=(has("attn_post_norm", "mlp_norm"), varied("mlp_norm")),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4201"),
    ),
    of_heads(
        "qk_norms_missing",
        wrong="q, k",
        change=OperationChange({"q_norm": MISSING, "k_norm": MISSING}),
        seen=github("paiml/aprender/pull/2085", "panbanda/higgs/pull/23", "tenstorrent/tt-mlir/pull/9042"),
    ),
    of_heads(
        "q_norm_missing",
        wrong="q, norm(k)",
        introduced=kinds("q_norm"),
        change=OperationChange({"q_norm": MISSING}),
        seen=github("kyegomez/MegaVIT/issues/17"),
    ),
    of_heads(
        "k_norm_missing",
        wrong="norm(q), k",
        introduced=kinds("k_norm"),
        change=OperationChange({"k_norm": MISSING}),
    ),
    of_heads(
        "qk_norm_weights_swapped",
        wrong="the norms of queries and keys have each other's weights",
        right="each has its own",
        change=exchanged(q_norm="k_norm"),
        needs=(
            has("q_norm"),
            varied("q_norm"),
            model_has(
                lambda arch: arch.qk_norm_over == "head" or arch.heads == arch.kv_heads,
                "the weights have different shapes here: exchanged, loading refuses them",
            ),
        ),
    ),
    of_heads(
        "qk_norm_eps",
        wrong="eps = 1e-12 for queries and keys",
        right="eps of the config",
        change=OptionChange(
            lambda arch: replace(arch, qk_norm=arch.qk_norm and replace(arch.qk_norm, eps=1e-12)),
            "queries and keys are not normed here",
        ),
        needs=(values("either eps is below the rounding of queries and keys", "smaller queries and keys"),),
        seen=github("Wenyueh/MinivLLM/pull/82"),
    ),
)
