"""Norms between families: `1 +` the weight, LayerNorm, norms after attention and MLP, of queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.families.options import Architecture, Norm
from harness.mutants.between import around, option
from harness.mutants.loading import as_another
from harness.mutants.mutant import EVERY_NORM, HEAD_NORMS, NORMS, Around, Mutant, kinds
from harness.mutants.needs import ROUNDED, Need, has, values, varied
from harness.mutants.norms import MISSING

PLUS_ONE = Need("architecture", lambda m: m.architecture.norm.plus_one, "norm weights are stored as they are here")
CENTERED = Need("architecture", lambda m: m.architecture.norm.centered, "no norm here subtracts a mean")
POST_NORMS = {"attn_post_norm": MISSING, "mlp_post_norm": MISSING}
QK_NORM = "q, k = norm(q), norm(k), before RoPE"
NO_QK_NORM = (
    "https://github.com/paiml/aprender/pull/2085",
    "https://github.com/panbanda/higgs/pull/23",
    "https://github.com/tenstorrent/tt-mlir/pull/9042",
)
LAYER_NORM = "w (x - mean) / sqrt(var + eps) + b"
NO_MEAN = "no norm here subtracts a mean"


def every_norm(change: Callable[[Norm], Norm]) -> Callable[[Architecture], Architecture]:
    """The norms with other options."""
    return lambda arch: replace(arch, norm=change(arch.norm), qk_norm=arch.qk_norm and change(arch.qk_norm))


def _with_weight(change: Callable[[np.ndarray], np.ndarray]) -> Around:
    """A norm with another weight."""
    return Around(lambda norm: lambda x, weight, *more: norm(x, change(weight), *more))


def _of_a_sample(norm: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The variance over N - 1: what comes before the weight is smaller by the root of (N - 1) / N."""

    def wrong(x: np.ndarray, weight: np.ndarray, *more: float) -> np.ndarray:
        return norm(x, weight * ((x.shape[-1] - 1) / x.shape[-1]) ** 0.5, *more)

    return wrong


MUTANTS = (
    option(
        "norm_plus_one_missing",
        "w x / rms(x)",
        "(1 + w) x / rms(x)",
        EVERY_NORM,
        every_norm(lambda norm: replace(norm, plus_one=False)),
        "norm weights are stored as they are here",
        "https://github.com/ggml-org/llama.cpp/pull/5631",
        "https://github.com/utensils/mold/pull/1078",
    ),
    around(
        "norm_plus_one_doubled",
        "(2 + w) x / rms(x): a converter had added the 1",
        "(1 + w) x / rms(x)",
        dict.fromkeys(sorted(EVERY_NORM), _with_weight(lambda weight: weight + 1)),
        "https://github.com/vllm-project/vllm/pull/31464",
        "https://github.com/NeuraLegion/shainet/pull/176",
        needs=(PLUS_ONE,),
    ),
    option(
        "norm_cast_early",
        "w cast(x / rms(x)), as in Llama",
        "cast(w x / rms(x))",
        EVERY_NORM,
        every_norm(lambda norm: replace(norm, weighted_wide=False)),
        "the weight multiplies after the cast here",
        "https://github.com/huggingface/transformers/pull/29402",
        needs=(ROUNDED,),
    ),
    option(
        "layer_norm_not_centered",
        "w x / rms(x) + b",
        LAYER_NORM,
        EVERY_NORM,
        every_norm(lambda norm: replace(norm, centered=False)),
        NO_MEAN,
    ),
    around(
        "layer_norm_sample_variance",
        "the variance over N - 1",
        "the variance over N",
        dict.fromkeys(sorted(EVERY_NORM), Around(_of_a_sample)),
        "https://github.com/LBANN/lbann/pull/2024",
        "https://github.com/allenai/allennlp/pull/953",
        needs=(CENTERED,),
    ),
    option(
        "layer_norm_bias_missing",
        "w (x - mean) / sqrt(var + eps)",
        LAYER_NORM,
        NORMS,
        lambda arch: replace(arch, norm=replace(arch.norm, bias=False)),
        "norms have no bias here",
        "https://github.com/baidu-baige/LoongForge/pull/109",
        needs=(varied("final_norm"),),
    ),
    around(
        "post_norms_missing",
        "x + f(norm(x))",
        "x + norm(f(norm(x)))",
        POST_NORMS,
        "https://github.com/google/flax/issues/4567",
        "https://github.com/google/tunix/pull/596",
        needs=(has("attn_post_norm"),),
    ),
    Mutant(
        "post_norm_weights_swapped",
        wrong="the norms after attention and before the MLP have each other's weights",
        right="each has its own",
        introduced=kinds("attn_post_norm", "mlp_norm"),
        change=as_another(attn_post_norm="mlp_norm", mlp_norm="attn_post_norm"),
        needs=(has("attn_post_norm", "mlp_norm"), varied("mlp_norm")),
        seen=("https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4201",),
    ),
    around("qk_norms_missing", "q, k", QK_NORM, {"q_norm": MISSING, "k_norm": MISSING}, *NO_QK_NORM),
    around(
        "q_norm_missing",
        "q, norm(k)",
        QK_NORM,
        {"q_norm": MISSING},
        "https://github.com/kyegomez/MegaVIT/issues/17",
    ),
    around("k_norm_missing", "norm(q), k", QK_NORM, {"k_norm": MISSING}),
    Mutant(
        "qk_norm_weights_swapped",
        wrong="the norms of queries and keys have each other's weights",
        right="each has its own",
        introduced=HEAD_NORMS,
        change=as_another(q_norm="k_norm", k_norm="q_norm"),
        needs=(
            has("q_norm"),
            varied("q_norm"),
            Need(
                "architecture",
                lambda m: m.architecture.qk_norm_over == "head" or m.architecture.heads == m.architecture.kv_heads,
                "the weights have different shapes here: exchanged, loading refuses them",
            ),
        ),
    ),
    option(
        "qk_norm_eps",
        "eps = 1e-12 for queries and keys",
        "eps of the config",
        HEAD_NORMS,
        lambda arch: replace(arch, qk_norm=arch.qk_norm and replace(arch.qk_norm, eps=1e-12)),
        "queries and keys are not normed here",
        "https://github.com/Wenyueh/MinivLLM/pull/82",
        needs=(values("either eps is below the rounding of queries and keys", "smaller queries and keys"),),
    ),
)
