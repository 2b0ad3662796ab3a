"""Bugs of routing: how the chosen experts weigh. Which of them are chosen is in router.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.families.options import Architecture, Experts
from harness.families.parameters import CORRECTION
from harness.mutants.between import around, option
from harness.mutants.free import decades, option_of
from harness.mutants.mutant import Around, FreeValue, Mutant, NumericsChange, kinds
from harness.mutants.needs import PAIR, WIDE, Need, has
from harness.run.operations import wide

ROUTING = kinds("routing")
OF_ALL = "a softmax over all experts, and then the chosen ones"
NORMED = "weights of the chosen, divided by their sum"
FACTOR = "weights, divided by their sum where the model does so, times the factor of the config"
AFTER_CHOICE = (
    "https://github.com/Lightning-AI/litgpt/issues/2013",
    "https://github.com/NVIDIA/Megatron-LM/issues/955",
    "https://github.com/QwenLM/Qwen3/issues/687",
)


def of_experts(change: Callable[[Experts], Experts]) -> Callable[[Architecture], Architecture]:
    """A decoder whose experts have other options."""
    return lambda arch: arch if arch.experts is None else replace(arch, experts=change(arch.experts))


def experts_have(what: Callable[[Experts], bool], lacking: str) -> Need:
    """The experts of the model have this option."""
    return Need(
        "architecture", lambda m: m.architecture.experts is not None and what(m.architecture.experts), lacking
    )


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
    return Around(
        lambda _: (
            lambda logits, scores, chosen: jnp.take_along_axis(
                by(logits.astype(wide(logits.dtype)), scores), chosen, axis=-1
            )
        )
    )


def softmax(logits: Array) -> Array:
    return jax.nn.softmax(logits.astype(wide(logits.dtype)), axis=-1)


def _narrow_weights(right: Callable[..., Array]) -> Callable[..., Array]:
    def wrong(logits: Array, scores: Array, chosen: Array) -> Array:
        exact = right(logits, scores, chosen)
        return exact.astype(jnp.bfloat16).astype(exact.dtype)

    return wrong


def _one_further(dense: Callable[..., Array]) -> Callable[..., Array]:
    """The weight of an expert goes to the next one."""
    return lambda *args: jnp.roll(dense(*args), 1, axis=-1)


def _with_factor(value: float) -> Callable[[Architecture], Architecture]:
    return of_experts(lambda e: replace(e, factor=value))


def _factor_twice(e: Experts) -> Experts:
    return replace(e, factor=e.factor * e.factor)


MUTANTS = (
    around(
        "routing_corrected",
        "the chosen experts weigh sigmoid(logits) + correction",
        "they weigh sigmoid(logits)",
        {"weigh": weighed(lambda logits, scores: scores)},
        "https://github.com/vllm-project/vllm/pull/12002",
        "https://github.com/huggingface/transformers/pull/39581",
        "https://github.com/PaddlePaddle/PaddleFormers/pull/3452",
        introduced=ROUTING,
        needs=(has("router_scores"), CORRECTS),
    ),
    option(
        "routing_softmax_after_choice",
        "a softmax over the logits of the chosen, or weights divided by their sum",
        OF_ALL,
        ROUTING,
        of_experts(_after_choice),
        "weights are normed here, or are no softmax over all experts",
        *AFTER_CHOICE,
    ),
    option(
        "routing_softmax_before_choice",
        "a softmax over all experts, and then the chosen ones, whose sum is less than 1",
        "a softmax over the logits of the chosen",
        ROUTING,
        of_experts(_before_choice),
        "the softmax is over all experts here, or there is none",
        "https://github.com/NVIDIA/TensorRT-LLM/pull/2752",
        "https://github.com/pytorch/torchtitan/pull/2319",
    ),
    option(
        "routing_not_normed",
        "weights of the chosen as they are",
        NORMED,
        ROUTING,
        of_experts(lambda e: replace(e, renormed=None)),
        "weights are not divided by their sum here",
        "https://github.com/pytorch/torchtitan/issues/1448",
        "https://github.com/NVIDIA/Megatron-LM/issues/1593",
    ),
    around(
        "routing_of_logits",
        "the chosen experts weigh their logits",
        "they weigh their scores",
        {"weigh": weighed(lambda logits, scores: logits)},
        "https://github.com/sgl-project/sglang/pull/35160",
        introduced=ROUTING,
    ),
    around(
        "routing_softmax_over_tokens",
        "a softmax over the tokens of a row",
        "a softmax over experts",
        {"weigh": weighed(lambda logits, scores: jax.nn.softmax(logits, axis=1))},
        "https://github.com/deepspeedai/DeepSpeed/pull/2110",
        introduced=ROUTING,
        needs=(SOFTMAX, PAIR),
    ),
    option(
        "routing_factor_missing",
        "weights without the factor, or with it before they are divided by their sum",
        FACTOR,
        ROUTING,
        _with_factor(1.0),
        "weights have no factor here",
        "https://github.com/sgl-project/sglang-jax/pull/1282",
        "https://github.com/sgl-project/sglang/pull/8511",
        "https://github.com/sgl-project/sglang/pull/12738",
        free=FreeValue("factor =", option_of(_with_factor), decades(-2, 2, 1), "weights times {}"),
    ),
    option(
        "routing_factor_twice",
        "weights times the factor, twice",
        FACTOR,
        ROUTING,
        of_experts(_factor_twice),
        "weights have no factor here",
        "https://github.com/vllm-project/vllm/pull/24119",
        "https://github.com/vllm-project/vllm/pull/45037",
    ),
    around(
        "routing_shifted",
        "the next expert gets the weight of the one that is chosen",
        "the expert that is chosen gets it",
        {"dense": Around(_one_further)},
        "https://github.com/vllm-project/vllm-xpu-kernels/pull/405",
        "https://github.com/sgl-project/sgl-kernel-xpu/pull/295",
        introduced=ROUTING,
    ),
    Mutant(
        "routing_narrow",
        wrong="weights rounded to bfloat16 before they are normed",
        right="in float32 or wider",
        introduced=ROUTING,
        change=NumericsChange({"weigh": Around(_narrow_weights)}),
        needs=(WIDE,),
        seen=("https://github.com/ViperEkura/AstrAI/pull/57",),
    ),
)
