"""Bugs of RMSNorm: eps, the mean, the weight, the precision. Wrong eps values of the config are in configs.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import forms
from harness.mutants.introduced import ALIKE_NORMS, kinds
from harness.mutants.mutant import Around, FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import ROUNDED, model_has, varied
from harness.run.operations import Hidden, aligned, rms_norm, wide

WEIGHTS = (varied("attn_norm"), varied("mlp_norm"), varied("final_norm"))


def at_norms(norm: Callable[..., Array]) -> dict[str, Callable[..., Array]]:
    """The same norm at its places, but of queries and keys."""
    return dict.fromkeys(sorted(ALIKE_NORMS), norm)


def _divided(by: Callable[[Array, float], Array]) -> OperationChange:
    """Divided otherwise than by the root of mean square plus eps: (root of mean square, eps) -> divisor."""

    def divided(x: Hidden, weight: Array, eps: float) -> Hidden:
        y = x.astype(wide(x.dtype))
        root = jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True))
        return aligned(weight, y) * (y / by(root, eps)).astype(x.dtype)

    return OperationChange(at_norms(divided))


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
        at_norms(lambda x, weight, eps: rms_norm(x, weight + jnp.asarray(value, weight.dtype), eps))
    )


MISSING = Around(lambda norm: lambda x, *parameters: x)
TWICE = Around(lambda norm: lambda x, *parameters: norm(norm(x, *parameters), *parameters))
norm = partial(Mutant, right="w x / sqrt(mean(x^2) + eps)", introduced=ALIKE_NORMS)
MUTANTS = (
    norm(
        "norm_eps_outside",
        wrong="w x / (sqrt(mean(x^2)) + eps)",
        change=_divided(lambda root, eps: root + eps),
        seen=github("allenai/OLMo/issues/281"),
    ),
    norm(
        "norm_eps_as_maximum",
        wrong="w x / max(sqrt(mean(x^2)), eps)",
        change=_divided(jnp.maximum),
        seen=github("EleutherAI/gpt-neox/pull/1342"),
    ),
    norm(
        "norm_eps_of_another",
        wrong="the norm before the MLP uses another eps of the config, 1e-5",
        introduced=kinds("mlp_norm"),
        change=OperationChange({"mlp_norm": lambda x, weight, eps: rms_norm(x, weight, 1e-5)}),
        needs=(model_has(lambda arch: arch.norm.eps != 1e-5, "eps is 1e-5 here"),),
        seen=github("osaurus-ai/vmlx-swift/pull/374"),
    ),
    norm(
        "norm_centered",
        wrong="w (x - mean(x)) / sqrt(var(x) + eps), LayerNorm",
        change=OperationChange(at_norms(_centered)),
        seen=github("sonos/tract/pull/2749", "mit-han-lab/omniserve/issues/32"),
    ),
    norm(
        "norm_plus_one",
        wrong="(1 + w) x / sqrt(mean(x^2) + eps), as in Gemma",
        change=_plus(1.0),
        free=FreeValue("added to the weight:", _plus, (-1.0, 0.5, 1.0, 2.0), "norm * (weight + {})"),
        seen=github("ggml-org/llama.cpp/pull/5631", "utensils/mold/pull/1078"),
    ),
    norm(
        "norm_weight_ignored",
        wrong="x / sqrt(mean(x^2) + eps)",
        change=OperationChange(at_norms(lambda x, weight, eps: rms_norm(x, jnp.ones_like(weight), eps))),
        needs=WEIGHTS,
        seen=github("lucidrains/x-transformers/issues/352"),
    ),
    Mutant(
        "norm_before_attention_missing",
        wrong="attention reads x",
        right="attention reads norm(x)",
        introduced=kinds("attn_norm"),
        change=OperationChange({"attn_norm": MISSING}),
        seen=github("google/flax/issues/4567"),
    ),
    Mutant(
        "norm_before_mlp_missing",
        wrong="the MLP reads x",
        right="the MLP reads norm(x)",
        introduced=kinds("mlp_norm"),
        change=OperationChange({"mlp_norm": MISSING}),
        seen=github("google/tunix/pull/596"),
    ),
    Mutant(
        "norm_before_attention_twice",
        wrong="attention reads norm(norm(x))",
        right="attention reads norm(x)",
        introduced=kinds("attn_norm"),
        change=OperationChange({"attn_norm": TWICE}),
        needs=(varied("attn_norm"),),
        seen=github("ggml-org/llama.cpp/pull/1925"),
    ),
    norm(
        "norm_cast_late",
        wrong="cast(w x / sqrt(mean(x^2) + eps)), as in Gemma",
        right="w cast(x / sqrt(mean(x^2) + eps))",
        change=NumericsChange(at_norms(_weighted_wide)),
        needs=(ROUNDED, *WEIGHTS),
        seen=github(
            "huggingface/transformers/issues/33133",
            "NVIDIA/TransformerEngine/issues/1132",
            "InternLM/lmdeploy/pull/2842",
        ),
    ),
    norm(
        "norm_narrow",
        wrong="square, mean and root in bfloat16",
        right="in float32 or wider",
        change=NumericsChange(at_norms(_narrow)),
        free=forms(
            divided_by_a_root=OperationChange(at_norms(_narrow_divided)),
            squares_alone=OperationChange(at_norms(_narrow_squares)),
        ),
        seen=github(
            "meta-llama/llama/issues/1048", "keras-team/keras-hub/pull/1532", "tenstorrent/tt-metal/issues/49600"
        ),
    ),
)
