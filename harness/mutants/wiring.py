"""Bugs of the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import decades, rounding, times
from harness.mutants.introduced import kinds
from harness.mutants.mutant import FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import WIDE, values
from harness.run.operations import Hidden, residual

BOTH = kinds("resid_mid", "resid_post")
NARROW = github(
    "vllm-project/vllm-omni/pull/6878", "ROCm/aiter/issues/5151", "microsoft/onnxruntime-genai/pull/1441"
)


def _both(add: Callable[[Hidden, Hidden], Hidden]) -> dict[str, Callable[..., Hidden]]:
    """The same sum after attention and after the MLP."""
    return {"attn_residual": add, "mlp_residual": add}


def _update_alone(x: Hidden, update: Hidden) -> Hidden:
    return update


def _multiplied(value: float) -> OperationChange:
    return OperationChange(_both(lambda x, update: residual(x, times(update, value))))


def _truncated(x: Hidden, update: Hidden) -> Hidden:
    """The 16 upper bits of float32: rounded towards zero, where bfloat16 rounds to nearest."""
    bits = jax.lax.bitcast_convert_type(residual(x, update).astype(jnp.float32), jnp.uint32)
    kept: Array = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return kept.astype(x.dtype)


summed = partial(Mutant, right="x + f(x)", introduced=BOTH)
MUTANTS = (
    summed(
        "attention_residual_missing",
        wrong="attention(norm(x))",
        introduced=kinds("resid_mid"),
        change=OperationChange({"attn_residual": _update_alone}),
        seen=github("strutive07/transformer-tensorflow2.0/issues/14"),
    ),
    summed(
        "mlp_residual_missing",
        wrong="mlp(norm(x))",
        introduced=kinds("resid_post"),
        change=OperationChange({"mlp_residual": _update_alone}),
        seen=github("strutive07/transformer-tensorflow2.0/issues/14"),
    ),
    summed(
        "residual_multiplied",
        wrong="x + 0.22 f(x), as in Granite",
        change=_multiplied(0.22),
        free=FreeValue("factor =", _multiplied, decades(-3, 3, 1), "residual + {} update"),
        seen=github("OpenNMT/CTranslate2/pull/1882"),
    ),
    summed(
        "mlp_residual_halved",
        wrong="x + f(x) / 2",
        introduced=kinds("resid_post"),
        change=OperationChange({"mlp_residual": lambda x, update: residual(x, update / 2)}),
        seen=github("ndif-team/nnterp/issues/54"),
    ),
    summed(
        "residual_in_bfloat16",
        wrong="bfloat16(x + f(x)) in a wider model",
        change=NumericsChange(_both(rounding(residual))),
        needs=(WIDE,),
        seen=NARROW,
    ),
    summed(
        "residual_truncated",
        wrong="x + f(x) cut to the upper 16 bits",
        change=NumericsChange(_both(_truncated)),
        needs=(WIDE,),
        seen=NARROW,
    ),
    summed(
        "residual_in_float16",
        wrong="float16(x + f(x)), infinite beyond 65,504",
        change=NumericsChange(_both(rounding(residual, jnp.float16))),
        needs=(values("float16 holds every sum that there is", "activations beyond 65,504"),),
        seen=github(
            "QwenLM/Qwen3/issues/826", "huggingface/transformers/pull/36832", "keras-team/keras-hub/pull/2519"
        ),
    ),
)
