"""Bugs of RMSNorm: eps, the mean, the weight, the precision. Wrong eps values of the config are in configs.py."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import forms
from harness.mutants.mutant import ALIKE_NORMS, Around, FreeValue, Mutant, NumericsChange, OperationChange, kinds
from harness.mutants.needs import ROUNDED, Need, varied
from harness.run.operations import Hidden, aligned, rms_norm, wide

RMS = "w x / sqrt(mean(x^2) + eps)"
WEIGHTS = (varied("attn_norm"), varied("mlp_norm"), varied("final_norm"))


def every(norm: Callable[..., Array]) -> dict[str, Callable[..., Array]]:
    """The same norm at its places, but of queries and keys."""
    return dict.fromkeys(sorted(ALIKE_NORMS), norm)


def _eps_outside(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(wide(x.dtype))
    return aligned(weight, y) * (y / (_root_mean_square(y) + eps)).astype(x.dtype)


def _eps_as_maximum(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(wide(x.dtype))
    return aligned(weight, y) * (y / jnp.maximum(_root_mean_square(y), eps)).astype(x.dtype)


def _root_mean_square(y: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True))


def _centered(x: Hidden, weight: Array, eps: float) -> Hidden:
    return rms_norm(x - jnp.mean(x, axis=-1, keepdims=True), weight, eps)


def _weighted_wide(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(wide(x.dtype))
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (aligned(weight, y).astype(y.dtype) * y).astype(x.dtype)


def _narrow(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(jnp.bfloat16)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True, dtype=y.dtype) + eps)
    return aligned(weight, y) * y.astype(x.dtype)


def _narrow_divided(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(jnp.bfloat16)
    y = y / jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.asarray(eps, y.dtype))
    return aligned(weight, y) * y.astype(x.dtype)


def _narrow_squares(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(wide(x.dtype))
    squares = jnp.square(x.astype(jnp.bfloat16)).astype(y.dtype)
    y = y * jax.lax.rsqrt(jnp.mean(squares, axis=-1, keepdims=True) + eps)
    return aligned(weight, y) * y.astype(x.dtype)


def _plus(value: float) -> OperationChange:
    return OperationChange(
        every(lambda x, weight, eps: rms_norm(x, weight + jnp.asarray(value, weight.dtype), eps))
    )


MISSING = Around(lambda norm: lambda x, *parameters: x)
TWICE = Around(lambda norm: lambda x, *parameters: norm(norm(x, *parameters), *parameters))


MUTANTS = (
    Mutant(
        "norm_eps_outside",
        wrong="w x / (sqrt(mean(x^2)) + eps)",
        right=RMS,
        introduced=ALIKE_NORMS,
        change=OperationChange(every(_eps_outside)),
        seen=("https://github.com/allenai/OLMo/issues/281",),
    ),
    Mutant(
        "norm_eps_as_maximum",
        wrong="w x / max(sqrt(mean(x^2)), eps)",
        right=RMS,
        introduced=ALIKE_NORMS,
        change=OperationChange(every(_eps_as_maximum)),
        seen=("https://github.com/EleutherAI/gpt-neox/pull/1342",),
    ),
    Mutant(
        "norm_eps_of_another",
        wrong="the norm before the MLP uses another eps of the config, 1e-5",
        right=RMS,
        introduced=kinds("mlp_norm"),
        change=OperationChange({"mlp_norm": lambda x, weight, eps: rms_norm(x, weight, 1e-5)}),
        needs=(Need("architecture", lambda model: model.architecture.norm.eps != 1e-5, "eps is 1e-5 here"),),
        seen=("https://github.com/osaurus-ai/vmlx-swift/pull/374",),
    ),
    Mutant(
        "norm_centered",
        wrong="w (x - mean(x)) / sqrt(var(x) + eps), LayerNorm",
        right=RMS,
        introduced=ALIKE_NORMS,
        change=OperationChange(every(_centered)),
        seen=("https://github.com/sonos/tract/pull/2749", "https://github.com/mit-han-lab/omniserve/issues/32"),
    ),
    Mutant(
        "norm_plus_one",
        wrong="(1 + w) x / sqrt(mean(x^2) + eps), as in Gemma",
        right=RMS,
        introduced=ALIKE_NORMS,
        change=_plus(1.0),
        free=FreeValue("added to the weight:", _plus, (-1.0, 0.5, 1.0, 2.0), "norm * (weight + {})"),
        seen=("https://github.com/ggml-org/llama.cpp/pull/5631", "https://github.com/utensils/mold/pull/1078"),
    ),
    Mutant(
        "norm_weight_ignored",
        wrong="x / sqrt(mean(x^2) + eps)",
        right=RMS,
        introduced=ALIKE_NORMS,
        change=OperationChange(every(lambda x, weight, eps: rms_norm(x, jnp.ones_like(weight), eps))),
        needs=WEIGHTS,
        seen=("https://github.com/lucidrains/x-transformers/issues/352",),
    ),
    Mutant(
        "norm_before_attention_missing",
        wrong="attention reads x",
        right="attention reads norm(x)",
        introduced=kinds("attn_norm"),
        change=OperationChange({"attn_norm": MISSING}),
        seen=("https://github.com/google/flax/issues/4567",),
    ),
    Mutant(
        "norm_before_mlp_missing",
        wrong="the MLP reads x",
        right="the MLP reads norm(x)",
        introduced=kinds("mlp_norm"),
        change=OperationChange({"mlp_norm": MISSING}),
        seen=("https://github.com/google/tunix/pull/596",),
    ),
    Mutant(
        "norm_before_attention_twice",
        wrong="attention reads norm(norm(x))",
        right="attention reads norm(x)",
        introduced=kinds("attn_norm"),
        change=OperationChange({"attn_norm": TWICE}),
        needs=(varied("attn_norm"),),
        seen=("https://github.com/ggml-org/llama.cpp/pull/1925",),
    ),
    Mutant(
        "norm_cast_late",
        wrong="cast(w x / sqrt(mean(x^2) + eps)), as in Gemma",
        right="w cast(x / sqrt(mean(x^2) + eps))",
        introduced=ALIKE_NORMS,
        change=NumericsChange(every(_weighted_wide)),
        needs=(ROUNDED, *WEIGHTS),
        seen=(
            "https://github.com/huggingface/transformers/issues/33133",
            "https://github.com/NVIDIA/TransformerEngine/issues/1132",
            "https://github.com/InternLM/lmdeploy/pull/2842",
        ),
    ),
    Mutant(
        "norm_narrow",
        wrong="square, mean and root in bfloat16",
        right="in float32 or wider",
        introduced=ALIKE_NORMS,
        change=NumericsChange(every(_narrow)),
        free=forms(
            divided_by_a_root=OperationChange(every(_narrow_divided)),
            squares_alone=OperationChange(every(_narrow_squares)),
        ),
        seen=(
            "https://github.com/meta-llama/llama/issues/1048",
            "https://github.com/keras-team/keras-hub/pull/1532",
            "https://github.com/tenstorrent/tt-metal/issues/49600",
        ),
    ),
)
