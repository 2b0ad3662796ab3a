"""Bugs of what experts make of a token: their activation, how their parts are weighed, and the shared one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.between import around, option
from harness.mutants.experts import OUT
from harness.mutants.free import decades, option_of
from harness.mutants.mutant import Among, Around, FreeValue, OperationChange, kinds
from harness.mutants.needs import has, values
from harness.mutants.numerics import biased
from harness.mutants.routing import BIASED, experts_have, of_experts
from harness.run.mixture import Act, Matrices
from harness.run.operations import Operations, wide

SUM = "the experts' part and the shared one's"
CLAMPED = "(up + 1) gate sigmoid(alpha gate), of a gate and an up within the limits"
WEIGHED = "the sum of weight (W_down act + b)"
CLAMP = experts_have(lambda e: e.clamp is not None, "experts are not clamped here")
LIMITED = values("no gate and no up of an expert exceeds the limit", "weights with activations beyond it")


def _inner(x: Array, gate: Matrices, up: Matrices, act: Act) -> Array:
    """What all experts have inside, [B, S, E, I]."""
    return act(*(biased(jnp.einsum("bsh,ehi->bsei", x, own.kernel), own.bias) for own in (gate, up)))


def _biases_unweighed(x: Array, routing: Array, gate: Matrices, up: Matrices, down: Matrices, act: Act) -> Array:
    """The bias of every chosen expert, whole."""
    y = jnp.einsum("bsei,eih->bseh", _inner(x, gate, up, act), down.kernel) * routing[..., None]
    assert down.bias is not None
    return (y + down.bias * (routing != 0)[..., None]).sum(axis=2).astype(x.dtype)


def _weighed_first(x: Array, routing: Array, gate: Matrices, up: Matrices, down: Matrices, act: Act) -> Array:
    """Experts of a token that is multiplied by their weight."""
    given = x[:, :, None] * routing[..., None].astype(x.dtype)
    inner = act(*(biased(jnp.einsum("bseh,ehi->bsei", given, own.kernel), own.bias) for own in (gate, up)))
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


MUTANTS = (
    around(
        "experts_biases_unweighed",
        "the sum of weight W_down act + b",
        WEIGHED,
        {"experts_out": Around(lambda _: _biases_unweighed)},
        "https://github.com/NVIDIA-NeMo/Automodel/pull/2591",
        needs=(BIASED,),
    ),
    around(
        "experts_weighed_first",
        "experts of weight x, as in Llama 4",
        "experts of x, and then the weight",
        {"experts_out": Around(lambda _: _weighed_first)},
    ),
    option(
        "experts_clamp_missing",
        "gates and ups without limits",
        CLAMPED,
        OUT,
        _with_limit(float("inf")),
        "experts are not clamped here",
        "https://github.com/sgl-project/sglang/pull/39939",
        needs=(LIMITED,),
        free=FreeValue("limit =", option_of(_with_limit), decades(-1, 2), "a limit of {}"),
    ),
    around(
        "experts_clamp_one_sided",
        "an up has no lower limit",
        CLAMPED,
        {"expert_act": Around(_one_sided)},
        "https://github.com/anthony-chaudhary/fak/issues/4837",
        introduced=OUT,
        needs=(CLAMP, LIMITED),
    ),
    option(
        "experts_alpha_missing",
        "(up + 1) gate sigmoid(gate)",
        CLAMPED,
        OUT,
        _with_alpha(1.0),
        "experts are not clamped here, or alpha is 1",
        "https://github.com/vllm-project/vllm/pull/22508",
        free=FreeValue("alpha =", option_of(_with_alpha), decades(-1, 1), "alpha = {}"),
    ),
    around(
        "experts_one_missing",
        "up gate sigmoid(alpha gate)",
        CLAMPED,
        {"expert_act": Around(_without_one)},
        "https://github.com/sgl-project/sglang/pull/39939",
        introduced=OUT,
        needs=(CLAMP,),
    ),
    around(
        "shared_expert_missing",
        "the experts' part alone",
        SUM,
        {"experts_sum": Around(lambda add: lambda out, shared: add(out))},
        "https://github.com/divyamakkar0/JAXformer/issues/21",
        "https://github.com/ROCm/ATOM/pull/1527",
        introduced=kinds("mlp_out"),
        needs=(has("shared_out"),),
    ),
    around(
        "shared_expert_ungated",
        "the shared expert's part, whole",
        "times the sigmoid of a number of the token's own",
        {"gated_shared": Around(lambda _: lambda shared, weight: shared)},
        "https://github.com/NousResearch/torchtitan/pull/36",
        "https://github.com/InternLM/lmdeploy/pull/3491",
        introduced=kinds("mlp_out"),
        needs=(has("shared_weight"),),
    ),
    around(
        "shared_expert_scaled",
        "the shared expert's part, times the factor of the others' weights",
        SUM,
        {"experts_sum": Among(_shared_scaled)},
        "https://github.com/sgl-project/sglang/pull/28237",
        introduced=kinds("mlp_out"),
        needs=(has("shared_out"), experts_have(lambda e: e.factor != 1.0, "weights have no factor here")),
        free=FreeValue("factor =", _shared_times, decades(-2, 2, 1), "the shared expert's part times {}"),
    ),
)
