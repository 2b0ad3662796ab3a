"""Bugs of RMSNorm: the value and the place of eps, the mean, the weight."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.mutant import Mutant, OperationChange, kinds
from harness.run.operations import Hidden, wide

RMS = "w x / sqrt(mean(x^2) + eps)"
NORMS = kinds("attn_norm", "mlp_norm", "final_norm")


def every_norm(norm: Callable[..., Array]) -> OperationChange:
    return OperationChange({"attn_norm": norm, "mlp_norm": norm, "final_norm": norm})


def eps_outside(x: Hidden, weight: Array, eps: float) -> Hidden:
    y = x.astype(wide(x.dtype))
    y = y / (jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True)) + eps)
    return weight * y.astype(x.dtype)


MUTANTS = (
    Mutant(
        "norm_eps_outside",
        wrong="w x / (sqrt(mean(x^2)) + eps)",
        right=RMS,
        introduced=NORMS,
        change=every_norm(eps_outside),
        seen=("https://github.com/allenai/OLMo/issues/281", "https://github.com/EleutherAI/gpt-neox/pull/1342"),
    ),
)
