"""Bugs of the residual stream."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import decades, times
from harness.mutants.mutant import FreeValue, Mutant, NumericsChange, OperationChange, kinds
from harness.mutants.needs import WIDE, values
from harness.run.operations import Hidden, residual

SUM = "x + f(x)"
BOTH = kinds("resid_mid", "resid_post")
NARROW = (
    "https://github.com/vllm-project/vllm-omni/pull/6878",
    "https://github.com/ROCm/aiter/issues/5151",
    "https://github.com/microsoft/onnxruntime-genai/pull/1441",
)


def _update_alone(x: Hidden, update: Hidden) -> Hidden:
    return update


def _multiplied(value: float) -> OperationChange:
    def add(x: Hidden, update: Hidden) -> Hidden:
        return residual(x, times(update, value))

    return OperationChange({"attn_residual": add, "mlp_residual": add})


def _rounded(x: Hidden, update: Hidden) -> Hidden:
    return residual(x, update).astype(jnp.bfloat16).astype(x.dtype)


def _truncated(x: Hidden, update: Hidden) -> Hidden:
    """The 16 upper bits of float32: rounded towards zero, where bfloat16 rounds to nearest."""
    bits = jax.lax.bitcast_convert_type(residual(x, update).astype(jnp.float32), jnp.uint32)
    kept: Array = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return kept.astype(x.dtype)


def _half_precision(x: Hidden, update: Hidden) -> Hidden:
    return residual(x, update).astype(jnp.float16).astype(x.dtype)


MUTANTS = (
    Mutant(
        "attention_residual_missing",
        wrong="attention(norm(x))",
        right=SUM,
        introduced=kinds("resid_mid"),
        change=OperationChange({"attn_residual": _update_alone}),
        seen=("https://github.com/strutive07/transformer-tensorflow2.0/issues/14",),
    ),
    Mutant(
        "mlp_residual_missing",
        wrong="mlp(norm(x))",
        right=SUM,
        introduced=kinds("resid_post"),
        change=OperationChange({"mlp_residual": _update_alone}),
        seen=("https://github.com/strutive07/transformer-tensorflow2.0/issues/14",),
    ),
    Mutant(
        "residual_multiplied",
        wrong="x + 0.22 f(x), as in Granite",
        right=SUM,
        introduced=BOTH,
        change=_multiplied(0.22),
        free=FreeValue("factor =", _multiplied, decades(-3, 3, 1), "residual + {} update"),
        seen=("https://github.com/OpenNMT/CTranslate2/pull/1882",),
    ),
    Mutant(
        "mlp_residual_halved",
        wrong="x + f(x) / 2",
        right=SUM,
        introduced=kinds("resid_post"),
        change=OperationChange({"mlp_residual": lambda x, update: residual(x, update / 2)}),
        seen=("https://github.com/ndif-team/nnterp/issues/54",),
    ),
    Mutant(
        "residual_in_bfloat16",
        wrong="bfloat16(x + f(x)) in a wider model",
        right=SUM,
        introduced=BOTH,
        change=NumericsChange({"attn_residual": _rounded, "mlp_residual": _rounded}),
        needs=(WIDE,),
        seen=NARROW,
    ),
    Mutant(
        "residual_truncated",
        wrong="x + f(x) cut to the upper 16 bits",
        right=SUM,
        introduced=BOTH,
        change=NumericsChange({"attn_residual": _truncated, "mlp_residual": _truncated}),
        needs=(WIDE,),
        seen=NARROW,
    ),
    Mutant(
        "residual_in_float16",
        wrong="float16(x + f(x)), infinite beyond 65,504",
        right=SUM,
        introduced=BOTH,
        change=NumericsChange({"attn_residual": _half_precision, "mlp_residual": _half_precision}),
        needs=(values("float16 holds every sum that there is", "activations beyond 65,504"),),
        seen=(
            "https://github.com/QwenLM/Qwen3/issues/826",
            "https://github.com/huggingface/transformers/pull/36832",
            "https://github.com/keras-team/keras-hub/pull/2519",
        ),
    ),
)
