"""The parameters of a layer of the built-in decoder, as Flax (nnx) modules: shapes, and no values."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from harness.families.graph import kinds_of
from harness.families.options import Architecture, Experts
from harness.families.parameters import experts_of, inputs, norms, outputs
from harness.run.operations import wide


class Projection(nnx.Module):
    """A matrix and, where the architecture has one, a bias."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: jnp.dtype) -> None:
        self.kernel = nnx.Param(jax.ShapeDtypeStruct((inputs, outputs), dtype))
        self.bias = nnx.Param(jax.ShapeDtypeStruct((outputs,), dtype)) if bias else None


class Weighted(nnx.Module):
    """The weight of a norm and, where it has one, its bias."""

    def __init__(self, shape: tuple[int, ...], *, bias: bool, dtype: jnp.dtype) -> None:
        self.weight = nnx.Param(jax.ShapeDtypeStruct(shape, dtype))
        self.bias = nnx.Param(jax.ShapeDtypeStruct(shape, dtype)) if bias else None


class Mixture(nnx.Module):
    """A matrix of every expert, and a bias of each where there is one."""

    def __init__(self, experts: int, inputs: int, outputs: int, *, bias: bool, dtype: jnp.dtype) -> None:
        self.kernel = nnx.Param(jax.ShapeDtypeStruct((experts, inputs, outputs), dtype))
        self.bias = nnx.Param(jax.ShapeDtypeStruct((experts, outputs), dtype)) if bias else None


class DecoderLayer(nnx.Module):
    """The parameters of a layer, each under the kind of tap that is made with it: `q`, `attn_norm`.

    Those of experts are `experts_gate`, `experts_up` and `experts_down`.
    """

    def __init__(self, arch: Architecture, dtype: jnp.dtype, sparse: bool) -> None:
        for kind, norm, shape in norms(arch, sparse):
            setattr(self, kind, Weighted(shape, bias=norm.bias, dtype=dtype))
        for kind in set(kinds_of(arch, sparse)) & outputs(arch, sparse).keys():
            sizes = inputs(arch, kind), outputs(arch, sparse)[kind]
            setattr(self, kind, Projection(*sizes, bias=kind in arch.biases, dtype=dtype))
        self.sinks = nnx.Param(jax.ShapeDtypeStruct((arch.heads,), dtype)) if arch.sinks else None
        if sparse:
            self._add_experts(arch.hidden, experts_of(arch), dtype)

    def _add_experts(self, hidden: int, experts: Experts, dtype: jnp.dtype) -> None:
        count, inner, bias = experts.count, experts.intermediate, experts.bias
        self.router_logits = Projection(hidden, count, bias=bias, dtype=dtype)
        # Never narrow: in bfloat16 it would choose other experts.
        scores = nnx.Param(jax.ShapeDtypeStruct((count,), wide(dtype)))
        self.router_scores = scores if experts.corrected else None
        self.experts_gate = Mixture(count, hidden, inner, bias=bias, dtype=dtype)
        self.experts_up = Mixture(count, hidden, inner, bias=bias, dtype=dtype)
        self.experts_down = Mixture(count, inner, hidden, bias=bias, dtype=dtype)


@functools.lru_cache(maxsize=16)
def skeleton(
    arch: Architecture, dtype: jnp.dtype, sparse: bool = False
) -> tuple[nnx.GraphDef[DecoderLayer], nnx.State]:
    """A layer's structure, and its parameters' shapes: none ever has an initial value that a load could leave."""
    graph, abstract = nnx.split(DecoderLayer(arch, dtype, sparse))
    return graph, abstract
