"""Bugs of what experts make of a token: their activation, how their parts are weighed, and the shared one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.experts import OUT
from harness.mutants.free import decades, option_of
from harness.mutants.introduced import kinds
from harness.mutants.mutant import Among, Around, FreeValue, Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import has, values
from harness.mutants.numerics import biased, inside
from harness.mutants.routing import BIASED, experts_have, of_experts
from harness.run.mixture import Act, Matrices
from harness.run.operations import Operations, wide

SUM = "the experts' part and the shared one's"
CLAMPED = "(up + 1) gate sigmoid(alpha gate), of a gate and an up within the limits"
CLAMP = experts_have(lambda e: e.clamp is not None, "experts are not clamped here")
LIMITED = values("no gate and no up of an expert exceeds the limit", "weights with activations beyond it")


def _biases_unweighed(x: Array, routing: Array, gate: Matrices, up: Matrices, down: Matrices, act: Act) -> Array:
    """The bias of every chosen expert, whole."""
    y = jnp.einsum("bsei,eih->bseh", inside(x, gate, up, act), down.kernel) * routing[..., None]
    assert down.bias is not None
    return (y + down.bias * (routing != 0)[..., None]).sum(axis=2).astype(x.dtype)


def _weighed_first(x: Array, routing: Array, gate: Matrices, up: Matrices, down: Matrices, act: Act) -> Array:
    """Experts of a token that is multiplied by their weight."""
    given = x[:, :, None] * routing[..., None].astype(x.dtype)
    inner = inside(given, gate, up, act, equation="bseh,ehi->bsei")
    y = biased(jnp.einsum("bsei,eih->bseh", inner, down.kernel), down.bias)
    return (y * (routing != 0)[..., None]).sum(axis=2).astype(x.dtype)


def _without_one(act: Act) -> Act:
    """clip(up) gate sigmoid(alpha gate): with an up of 0 the rest is left."""

    def wrong(gate: Array, up: Array) -> Array:
        given = gate.astype(wide(gate.dtype)), up.astype(wide(up.dtype))
        return (act(*given) - act(given[0], jnp.zeros_like(given[1]))).astype(gate.dtype)

    return wrong


def _one_sided(act: Act) -> Act:
    """An up has no lower limit."""

    def wrong(gate: Array, up: Array) -> Array:
        return jnp.where(up < 0, (up + 1) * act(gate, jnp.zeros_like(up)), act(gate, up))

    return wrong


def _clamped(change: Callable[[float, float], tuple[float, float]]) -> Callable[[Architecture], Architecture]:
    """Experts with another alpha, or another limit."""
    return of_experts(lambda e: replace(e, clamp=e.clamp and change(*e.clamp)))


def _with_alpha(value: float) -> Callable[[Architecture], Architecture]:
    return _clamped(lambda _, limit: (value, limit))


def _with_limit(value: float) -> Callable[[Architecture], Architecture]:
    return _clamped(lambda alpha, _: (alpha, value))


def _shared_times(factor: float) -> OperationChange:
    """The shared expert's part times a factor."""
    return OperationChange(
        {"experts_sum": Around(lambda add: lambda out, shared: add(out, shared * jnp.asarray(factor, out.dtype)))}
    )


def _shared_scaled(ops: Operations) -> Callable[..., Array]:
    return lambda out, shared: ops.experts_sum(out, ops.routing_scale(shared))


clamped = partial(Mutant, right=CLAMPED, introduced=OUT)
MUTANTS = (
    Mutant(
        "experts_biases_unweighed",
        wrong="the sum of weight W_down act + b",
        right="the sum of weight (W_down act + b)",
        introduced=OUT,
        change=OperationChange({"experts_out": Around(lambda _: _biases_unweighed)}),
        needs=(BIASED,),
        seen=github("NVIDIA-NeMo/Automodel/pull/2591"),
    ),
    Mutant(
        "experts_weighed_first",
        wrong="experts of weight x, as in Llama 4",
        right="experts of x, and then the weight",
        introduced=OUT,
        change=OperationChange({"experts_out": Around(lambda _: _weighed_first)}),
    ),
    clamped(
        "experts_clamp_missing",
        wrong="gates and ups without limits",
        change=OptionChange(_with_limit(float("inf")), "experts are not clamped here"),
        free=FreeValue("limit =", option_of(_with_limit), decades(-1, 2), "a limit of {}"),
        needs=(LIMITED,),
        seen=github("sgl-project/sglang/pull/39939"),
    ),
    clamped(
        "experts_clamp_one_sided",
        wrong="an up has no lower limit",
        change=OperationChange({"expert_act": Around(_one_sided)}),
        needs=(CLAMP, LIMITED),
        seen=github("anthony-chaudhary/fak/issues/4837"),
    ),
    clamped(
        "experts_alpha_missing",
        wrong="(up + 1) gate sigmoid(gate)",
        change=OptionChange(_with_alpha(1.0), "experts are not clamped here, or alpha is 1"),
        free=FreeValue("alpha =", option_of(_with_alpha), decades(-1, 1), "alpha = {}"),
        seen=github("vllm-project/vllm/pull/22508"),
    ),
    clamped(
        "experts_one_missing",
        wrong="up gate sigmoid(alpha gate)",
        change=OperationChange({"expert_act": Around(_without_one)}),
        needs=(CLAMP,),
        seen=github("sgl-project/sglang/pull/39939"),
    ),
    Mutant(
        "shared_expert_missing",
        wrong="the experts' part alone",
        right=SUM,
        introduced=kinds("mlp_out"),
        change=OperationChange({"experts_sum": Around(lambda add: lambda out, shared: add(out))}),
        needs=(has("shared_out"),),
        seen=github("divyamakkar0/JAXformer/issues/21", "ROCm/ATOM/pull/1527"),
    ),
    Mutant(
        "shared_expert_ungated",
        wrong="the shared expert's part, whole",
        right="times the sigmoid of a number of the token's own",
        introduced=kinds("mlp_out"),
        change=OperationChange({"gated_shared": Around(lambda _: lambda shared, weight: shared)}),
        needs=(has("shared_weight"),),
        seen=github("NousResearch/torchtitan/pull/36", "InternLM/lmdeploy/pull/3491"),
    ),
    Mutant(
        "shared_expert_scaled",
        wrong="the shared expert's part, times the factor of the others' weights",
        right=SUM,
        introduced=kinds("mlp_out"),
        change=OperationChange({"experts_sum": Among(_shared_scaled)}),
        free=FreeValue("factor =", _shared_times, decades(-2, 2, 1), "the shared expert's part times {}"),
        needs=(has("shared_out"), experts_have(lambda e: e.factor != 1.0, "weights have no factor here")),
        seen=github("sgl-project/sglang/pull/28237"),
    ),
)
