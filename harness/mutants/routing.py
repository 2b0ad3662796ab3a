"""Bugs of routing: how the chosen experts weigh, and of dispatch: which tokens are dropped. Choice: router.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.families.options import Architecture, Experts
from harness.families.parameters import CORRECTION
from harness.mutants.free import decades, option_of, rounding
from harness.mutants.introduced import kinds
from harness.mutants.mutant import Around, FreeValue, Mutant, NumericsChange, OperationChange, OptionChange, github
from harness.mutants.needs import LEFT_PADDING, PAIR, WIDE, Need, at_least, has, model_has, values
from harness.run.operations import wide

EVERY = "every token goes to the experts that are chosen for it"
FACTOR = "weights, divided by their sum where the model does so, times the factor of the config"
routed = partial(Mutant, introduced=kinds("routing"))


def of_experts(change: Callable[[Experts], Experts]) -> Callable[[Architecture], Architecture]:
    """A decoder whose experts have other options."""
    return lambda arch: arch if arch.experts is None else replace(arch, experts=change(arch.experts))


def experts_having(**options: Any) -> Callable[[Architecture], Architecture]:
    """A decoder whose experts have these options."""
    return of_experts(lambda experts: replace(experts, **options))


def experts_have(holds: Callable[[Experts], bool], lacking: str) -> Need:
    """The experts of the model have this option."""
    return model_has(lambda arch: arch.experts and holds(arch.experts), lacking)


SOFTMAX = experts_have(lambda e: e.score != "sigmoid", "weights are sigmoids here")
SIGMOID = experts_have(lambda e: e.score == "sigmoid", "weights are a softmax here")
CORRECTS = Need(
    "checkpoint",
    lambda m: f"router_scores.{CORRECTION}" not in m.zero,
    "the corrections are zero in this checkpoint",
    "test weights with random corrections",
)
BIASED = experts_have(lambda e: e.bias, "router and experts have no bias here")


def _after_choice(e: Experts) -> Experts:
    return replace(e, renormed=0.0) if e.score == "softmax" and e.renormed is None else e


def _before_choice(e: Experts) -> Experts:
    return replace(e, score="softmax") if e.score == "softmax_of_chosen" else e


def weighed(by: Callable[[Array, Array], Array]) -> Around:
    """(logits, scores) -> what the chosen experts weigh, of all experts."""

    def wrong(logits: Array, scores: Array, chosen: Array) -> Array:
        return jnp.take_along_axis(by(logits.astype(wide(logits.dtype)), scores), chosen, axis=-1)

    return Around(lambda _: wrong)


def softmax(logits: Array) -> Array:
    return jax.nn.softmax(logits.astype(wide(logits.dtype)), axis=-1)


def _one_further(dense: Callable[..., Array]) -> Callable[..., Array]:
    """The weight of an expert goes to the next one."""
    return lambda *args: jnp.roll(dense(*args), 1, axis=-1)


def _with_factor(value: float) -> Callable[[Architecture], Architecture]:
    return experts_having(factor=value)


def _with_room(room: Callable[[Array, Array, Array], Array]) -> OperationChange:
    """A token is dropped where an expert has no room for it any more; padding takes room too.

    Args:
        room: (routing [B, S, E], chosen, tokens) -> that of an expert, by row and expert.
    """

    def dispatched(dense: Callable[..., Array]) -> Callable[..., Array]:
        def wrong(x: Array, weights: Array, chosen: Array, tokens: Array) -> Array:
            routing = dense(x, weights, chosen, tokens)
            taken = jnp.cumsum((routing != 0).astype(jnp.int32), axis=1)
            return jnp.where(taken <= room(routing, chosen, tokens), routing, jnp.zeros_like(routing))

        return wrong

    return OperationChange({"dense": Around(dispatched)})


def capacity(factor: float) -> OperationChange:
    """Room for `factor` times an expert's share of the tokens."""

    def room(routing: Array, chosen: Array, tokens: Array) -> Array:
        places = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32)
        length = jnp.where(tokens, places, 0).max(axis=1)[:, None, None]  # of the row, up to its last token
        share = jnp.floor(length * (factor * chosen.shape[-1] / routing.shape[-1])).astype(jnp.int32)
        return jnp.maximum(share, 1)

    return _with_room(room)


def _needed(routing: Array, chosen: Array, tokens: Array) -> Array:
    """As much room as tokens need."""
    return ((routing != 0) & tokens[..., None]).sum(axis=1, keepdims=True)


MUTANTS = (
    routed(
        "routing_corrected",
        wrong="the chosen experts weigh sigmoid(logits) + correction",
        right="they weigh sigmoid(logits)",
        change=OperationChange({"weigh": weighed(lambda logits, scores: scores)}),
        needs=(has("router_scores"), CORRECTS),
        seen=github(
            "vllm-project/vllm/pull/12002",
            "huggingface/transformers/pull/39581",
            "PaddlePaddle/PaddleFormers/pull/3452",
        ),
    ),
    routed(
        "routing_softmax_after_choice",
        wrong="a softmax over the logits of the chosen, or weights divided by their sum",
        right="a softmax over all experts, and then the chosen ones",
        change=OptionChange(
            of_experts(_after_choice), "weights are normed here, or are no softmax over all experts"
        ),
        seen=github("Lightning-AI/litgpt/issues/2013", "NVIDIA/Megatron-LM/issues/955", "QwenLM/Qwen3/issues/687"),
    ),
    routed(
        "routing_softmax_before_choice",
        wrong="a softmax over all experts, and then the chosen ones, whose sum is less than 1",
        right="a softmax over the logits of the chosen",
        change=OptionChange(of_experts(_before_choice), "the softmax is over all experts here, or there is none"),
        seen=github("NVIDIA/TensorRT-LLM/pull/2752", "pytorch/torchtitan/pull/2319"),
    ),
    routed(
        "routing_not_normed",
        wrong="weights of the chosen as they are",
        right="weights of the chosen, divided by their sum",
        change=OptionChange(experts_having(renormed=None), "weights are not divided by their sum here"),
        seen=github("pytorch/torchtitan/issues/1448", "NVIDIA/Megatron-LM/issues/1593"),
    ),
    routed(
        "routing_of_logits",
        wrong="the chosen experts weigh their logits",
        right="they weigh their scores",
        change=OperationChange({"weigh": weighed(lambda logits, scores: logits)}),
        seen=github("sgl-project/sglang/pull/35160"),
    ),
    routed(
        "routing_softmax_over_tokens",
        wrong="a softmax over the tokens of a row",
        right="a softmax over experts",
        change=OperationChange({"weigh": weighed(lambda logits, scores: jax.nn.softmax(logits, axis=1))}),
        needs=(SOFTMAX, PAIR),
        seen=github("deepspeedai/DeepSpeed/pull/2110"),
    ),
    routed(
        "routing_factor_missing",
        wrong="weights without the factor, or with it before they are divided by their sum",
        right=FACTOR,
        change=OptionChange(_with_factor(1.0), "weights have no factor here"),
        free=FreeValue("factor =", option_of(_with_factor), decades(-2, 2, 1), "weights times {}"),
        seen=github(
            "sgl-project/sglang-jax/pull/1282", "sgl-project/sglang/pull/8511", "sgl-project/sglang/pull/12738"
        ),
    ),
    routed(
        "routing_factor_twice",
        wrong="weights times the factor, twice",
        right=FACTOR,
        change=OptionChange(
            of_experts(lambda e: replace(e, factor=e.factor * e.factor)), "weights have no factor here"
        ),
        seen=github("vllm-project/vllm/pull/24119", "vllm-project/vllm/pull/45037"),
    ),
    routed(
        "routing_shifted",
        wrong="the next expert gets the weight of the one that is chosen",
        right="the expert that is chosen gets it",
        change=OperationChange({"dense": Around(_one_further)}),
        seen=github("vllm-project/vllm-xpu-kernels/pull/405", "sgl-project/sgl-kernel-xpu/pull/295"),
    ),
    routed(
        "routing_narrow",
        wrong="weights rounded to bfloat16 before they are normed",
        right="in float32 or wider",
        change=NumericsChange({"weigh": Around(rounding)}),
        needs=(WIDE,),
        seen=github("ViperEkura/AstrAI/pull/57"),
    ),
)
# Experts with room for so many tokens: what does not fit is dropped. A row of the batch has room of its own, as in
# MaxText. Tokens take it in their order.
DISPATCH = (
    routed(
        "routing_over_capacity",
        wrong="a token is dropped by an expert that has its share of the tokens already",
        right=EVERY,
        change=capacity(1.0),
        free=FreeValue(
            "capacity factor =",
            capacity,
            (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
            "tokens are dropped by an expert that has {} times its share of them already",
            counts=True,
        ),
        needs=(at_least(4),),
        seen=github("deepspeedai/DeepSpeed/pull/7986", "huggingface/transformers/issues/36730"),
    ),
    routed(
        "routing_room_taken_by_padding",
        wrong="padding takes the room of tokens, which are dropped",
        right=EVERY,
        change=_with_room(_needed),
        needs=(LEFT_PADDING, values("no token goes where padding goes", "more padding, or more tokens beside it")),
        seen=github("NVIDIA/Megatron-LM/pull/5542", "marin-community/marin/issues/8953"),
    ),
)
