"""How well the built-in decoder is compiled.

On a CPU, compiling a layer well takes a quarter of a second, and a small model computes for less than that on all
inputs of its golden: there it is compiled quickly, and inputs are padded to few lengths whatever it costs. Where a
model computes for longer, the lengths are chosen by what padding and compiling cost. Other ports are compiled as
they ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax.core import Tracer

from harness.families.options import Architecture
from harness.families.parameters import inputs, outputs
from harness.run.lengths import shared_lengths
from harness.run.padding import pad, padded_length
from harness.run.port import Call

# So many elements are computed by badly optimized programs in the time that they are compiled faster.
FEW = 1 << 24
# So many floating point operations take as long as compiling embedding, layer and head well for one more length.
OPERATIONS_OF_COMPILING = 3e10
# Options of XLA's compiler for CPUs. What is rounded stays rounded: a quick compilation may otherwise leave out a
# rounding to a narrower dtype and back.
QUICKLY: dict[str, bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_allow_excess_precision": False,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_prefer_vector_width": 64,
}


def is_small(arch: Architecture, call: Call) -> bool:
    """Whether a call is computed before it could be compiled well."""
    if is_tracing() or not are_known(tuple(QUICKLY.items())):
        return False  # it is part of another program, or its compiler has other options
    return elements(arch, call.input_ids.size, call.mask.shape[1]) <= FEW


def at_few_lengths(arch: Architecture, calls: Sequence[Call]) -> list[Call]:
    """Calls without a cache, at the lengths that cost least."""
    shapes = [call.input_ids.shape for call in calls]
    small = [
        elements(arch, batch * padded_length(length), padded_length(length)) <= FEW for batch, length in shapes
    ]
    long = [shape for shape, few in zip(shapes, small, strict=True) if not few]
    shared = shared_lengths(long, partial(operations, arch), OPERATIONS_OF_COMPILING)
    return [
        pad(call, None if few else shared[length])
        for call, (_, length), few in zip(calls, shapes, small, strict=True)
    ]


@cache
def are_known(options: tuple[tuple[str, bool | int], ...]) -> bool:
    """Whether the compiler of this device, in this version, has these options."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except Exception:
        return False
    return True


@cache
def elements(arch: Architecture, tokens: int, keys: int) -> int:
    """How many numbers are gone through in all layers: weights, and what every token has, with so many keys."""
    return arch.layers * (_weights(arch) + tokens * (arch.hidden + arch.intermediate + arch.heads * keys))


@cache
def operations(arch: Architecture, batch: int, length: int) -> float:
    """How many floating point operations the layers take for one input."""
    return arch.layers * batch * length * (2.0 * _weights(arch) + 4.0 * arch.heads * arch.head_dim * length)


def _weights(arch: Architecture) -> int:
    """How many numbers the matrices of a layer have: of one with experts, where there are some."""
    sparse, experts = arch.experts is not None, arch.experts
    own = sum(size * inputs(arch, kind) for kind, size in outputs(arch, sparse).items())
    return own + (experts.count * (3 * experts.intermediate + 1) * arch.hidden if experts else 0)


def is_tracing() -> bool:
    """Whether what is computed here becomes part of a program, which only as a whole has options."""
    return isinstance(jnp.zeros(()), Tracer)
