"""Bugs of the activation of gated MLPs and of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import decades, times
from harness.mutants.introduced import kinds
from harness.mutants.mutant import FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import WIDE, values
from harness.run.operations import gated

LIMIT = 7.0
GATED = ("gated", "expert_act", "shared_act")
SHOWN = kinds("act", "experts_out", "shared_act")


def everywhere(act: Callable[..., Array]) -> OperationChange:
    """In the MLP, in experts, and in the shared one."""
    return OperationChange(dict.fromkeys(GATED, act))


def _clamped(value: float) -> OperationChange:
    return everywhere(lambda gate, up: gated(jnp.minimum(gate, value), jnp.clip(up, -value, value)))


def _sloped(value: float) -> OperationChange:
    return everywhere(lambda gate, up: gate * jax.nn.sigmoid(times(gate, value)) * up)


def _narrow(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate.astype(jnp.bfloat16)).astype(gate.dtype) * up


activation = partial(Mutant, right="silu(gate) up", introduced=SHOWN)
MUTANTS = (
    activation(
        "gate_up_swapped",
        wrong="silu(up) gate",
        change=everywhere(lambda gate, up: gated(up, gate)),
        seen=github("ml-explore/mlx-lm/pull/767"),
    ),
    activation(
        "activation_gelu",
        wrong="gelu(gate) up, with erf",
        change=everywhere(lambda gate, up: jax.nn.gelu(gate, approximate=False) * up),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4661"),
    ),
    activation(
        "activation_gelu_tanh",
        wrong="gelu(gate) up, with tanh",
        change=everywhere(lambda gate, up: jax.nn.gelu(gate, approximate=True) * up),
        seen=github("huggingface/transformers/pull/29402", "jax-ml/jax/pull/4438"),
    ),
    activation(
        "activation_quick_gelu",
        wrong="gate sigmoid(1.702 gate) up",
        change=_sloped(1.702),
        free=FreeValue("slope =", _sloped, decades(-1, 1), "gate sigmoid({} gate) * up"),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4661"),
    ),
    activation(
        "activation_relu",
        wrong="max(gate, 0) up",
        change=everywhere(lambda gate, up: jax.nn.relu(gate) * up),
    ),
    activation(
        "activation_missing",
        wrong="gate up",
        change=everywhere(lambda gate, up: gate * up),
    ),
    activation(
        "activation_without_up",
        wrong="silu(gate): SwiGLU taken for SiLU",
        change=everywhere(lambda gate, up: jax.nn.silu(gate)),
        seen=github("google-research/timesfm/issues/493"),
    ),
    activation(
        "activation_clamped",
        wrong=f"silu(min(gate, {LIMIT:g})) clip(up, -{LIMIT:g}, {LIMIT:g}): a limit that other models have",
        change=_clamped(LIMIT),
        free=FreeValue("limit =", _clamped, decades(-1, 1, 8), "gate at most {0}, up between -{0} and {0}"),
        needs=(values(f"no gate and no up exceeds {LIMIT:g}", f"weights with activations beyond {LIMIT:g}"),),
        seen=github("vllm-project/vllm/pull/57984"),
    ),
    activation(
        "activation_narrow",
        wrong="bfloat16(silu(gate)) up",
        change=NumericsChange(dict.fromkeys(GATED, _narrow)),
        needs=(WIDE,),
        seen=github("apple/coremltools/pull/2863"),
    ),
)
