"""Bugs of the activation of gated MLPs and of experts."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.free import decades, times
from harness.mutants.mutant import Change, FreeValue, Mutant, NumericsChange, OperationChange, kinds
from harness.mutants.needs import WIDE, Need, values
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


def _mutant(
    name: str, wrong: str, change: Change, *seen: str, needs: tuple[Need, ...] = (), free: FreeValue | None = None
) -> Mutant:
    return Mutant(name, wrong, "silu(gate) up", SHOWN, change, needs=needs, free=free, seen=seen)


MUTANTS = (
    _mutant(
        "gate_up_swapped",
        "silu(up) gate",
        everywhere(lambda gate, up: gated(up, gate)),
        "https://github.com/ml-explore/mlx-lm/pull/767",
    ),
    _mutant(
        "activation_gelu",
        "gelu(gate) up, with erf",
        everywhere(lambda gate, up: jax.nn.gelu(gate, approximate=False) * up),
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4661",
    ),
    _mutant(
        "activation_gelu_tanh",
        "gelu(gate) up, with tanh",
        everywhere(lambda gate, up: jax.nn.gelu(gate, approximate=True) * up),
        "https://github.com/huggingface/transformers/pull/29402",
        "https://github.com/jax-ml/jax/pull/4438",
    ),
    _mutant(
        "activation_quick_gelu",
        "gate sigmoid(1.702 gate) up",
        _sloped(1.702),
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4661",
        free=FreeValue("slope =", _sloped, decades(-1, 1), "gate sigmoid({} gate) * up"),
    ),
    _mutant(
        "activation_relu",
        "max(gate, 0) up",
        everywhere(lambda gate, up: jax.nn.relu(gate) * up),
    ),
    _mutant(
        "activation_missing",
        "gate up",
        everywhere(lambda gate, up: gate * up),
    ),
    _mutant(
        "activation_without_up",
        "silu(gate): SwiGLU taken for SiLU",
        everywhere(lambda gate, up: jax.nn.silu(gate)),
        "https://github.com/google-research/timesfm/issues/493",
    ),
    _mutant(
        "activation_clamped",
        f"silu(min(gate, {LIMIT:g})) clip(up, -{LIMIT:g}, {LIMIT:g}): a limit that other models have",
        _clamped(LIMIT),
        "https://github.com/vllm-project/vllm/pull/57984",
        needs=(values(f"no gate and no up exceeds {LIMIT:g}", f"weights with activations beyond {LIMIT:g}"),),
        free=FreeValue("limit =", _clamped, decades(-1, 1, 8), "gate at most {0}, up between -{0} and {0}"),
    ),
    _mutant(
        "activation_narrow",
        "bfloat16(silu(gate)) up",
        NumericsChange(dict.fromkeys(GATED, _narrow)),
        "https://github.com/apple/coremltools/pull/2863",
        needs=(WIDE,),
    ),
)
