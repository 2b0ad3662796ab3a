"""Bugs of the router: its logits, its scores, and which experts are chosen by them. Weights are in routing.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.families.options import Experts
from harness.families.parameters import CORRECTION
from harness.mutants.free import option_of
from harness.mutants.introduced import kinds
from harness.mutants.loading import changed
from harness.mutants.mutant import Around, FreeValue, Mutant, NumericsChange, OperationChange, OptionChange, github
from harness.mutants.needs import WIDE, has, values
from harness.mutants.routing import (
    BIASED,
    CORRECTS,
    SIGMOID,
    experts_have,
    experts_having,
    of_experts,
    routed,
    softmax,
    weighed,
)

BY_GROUPS = "experts of the groups that are chosen first"


def _hidden_by_zero(groups: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def wrong(scores: Array) -> Array:
        hidden = groups(scores)
        return jnp.where(jnp.isneginf(hidden), jnp.zeros_like(hidden), hidden)

    return wrong


def _narrow_product(right: Callable[..., Array]) -> Callable[..., Array]:
    def wrong(x: Array, kernel: Array, *bias: Array) -> Array:
        exact = right(x, kernel, *bias)
        y = jnp.matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        for own in bias:
            y = y + own.astype(y.dtype)
        return y.astype(exact.dtype)

    return wrong


def _best_of_a_group(e: Experts) -> Experts:
    return replace(e, group_by="best") if e.groups > e.chosen_groups else e


def _larger_groups(e: Experts) -> Experts:
    """Half as many, of which half as many are chosen; the same where these have too few experts."""
    groups, chosen = e.groups // 2, e.chosen_groups // 2
    fits = chosen and e.groups % 2 == 0 and groups > chosen and chosen * (e.count // groups) >= e.chosen
    return replace(e, groups=groups, chosen_groups=chosen) if fits else e


MUTANTS = (
    Mutant(
        "router_bias_missing",
        wrong="router logits = W x",
        right="router logits = W x + b",
        introduced=kinds("router_logits"),
        change=changed("router_logits", by=np.zeros_like, names="bias"),
        needs=(BIASED,),
        seen=github("pytorch/torchtitan/pull/2319"),
    ),
    Mutant(
        "router_narrow",
        wrong="router logits = bfloat16(W) bfloat16(x), stored in bfloat16",
        right="W x, as wide as the model has it",
        introduced=kinds("router_logits"),
        change=NumericsChange({"router": Around(_narrow_product)}),
        needs=(WIDE,),
        seen=github(
            "vllm-project/vllm/pull/14027", "sgl-project/sglang/pull/33764", "marin-community/marin/pull/4234"
        ),
    ),
    Mutant(
        "router_correction_missing",
        wrong="chosen by sigmoid(logits)",
        right="chosen by sigmoid(logits) + correction",
        introduced=kinds("router_scores"),
        change=changed("router_scores", by=np.zeros_like, names=CORRECTION),
        needs=(has("router_scores"), CORRECTS),
        seen=github("huggingface/transformers/pull/41663"),
    ),
    Mutant(
        "router_softmax_for_sigmoid",
        wrong="softmax(logits), and chosen by that, with the correction added",
        right="sigmoid(logits), and chosen by that, with the correction added",
        introduced=kinds("router_scores", "routing"),
        change=OperationChange(
            {
                "corrected": Around(lambda _: lambda logits, correction: softmax(logits) + correction),
                "weigh": weighed(lambda logits, scores: softmax(logits)),
            }
        ),
        needs=(SIGMOID,),
        seen=github("MetaX-MACA/vLLM-metax/pull/284"),
    ),
    routed(
        "router_sigmoid_for_softmax",
        wrong="sigmoid(logits) of the chosen",
        right="a softmax over experts",
        change=OptionChange(experts_having(score="sigmoid"), "weights are sigmoids here"),
    ),
    routed(
        "router_groups_ignored",
        wrong="the best of all experts",
        right=BY_GROUPS,
        change=OptionChange(
            of_experts(lambda e: replace(e, groups=1, chosen_groups=1) if e.groups > e.chosen_groups else e),
            "experts are not chosen by groups here",
        ),
        needs=(values("no group that is left out has one of the best experts", "more experts, or more tokens"),),
        seen=github("pytorch/torchtitan/pull/2111"),
    ),
    routed(
        "router_groups_by_best",
        wrong="a group's score is its best expert's, as in DeepSeek-V2",
        right="the sum of its best two",
        change=OptionChange(
            of_experts(_best_of_a_group), "experts are not chosen by groups here, or by their best"
        ),
        needs=(values("both scores choose the same groups", "more groups, or more tokens"),),
        seen=github("NVIDIA/Megatron-LM/pull/1381"),
    ),
    routed(
        "router_groups_of_wrong_size",
        wrong="groups of twice as many experts, half as many of them chosen",
        right=BY_GROUPS,
        change=OptionChange(
            of_experts(_larger_groups), "experts are not chosen by groups here, or larger ones do not fit"
        ),
        needs=(values("both groups choose the same experts", "more groups, or more tokens"),),
        seen=github("huggingface/transformers/issues/48647"),
    ),
    routed(
        "router_groups_hidden_by_zero",
        wrong="experts of other groups score 0",
        right="they cannot be chosen",
        change=OperationChange({"in_groups": Around(_hidden_by_zero)}),
        needs=(
            experts_have(
                lambda e: e.corrected and e.groups > e.chosen_groups,
                "experts are not chosen by groups here, or no score is below 0",
            ),
            values("no expert that is chosen scores less than 0", "corrections below 0"),
        ),
        seen=github("sgl-project/sglang/pull/3705", "huggingface/transformers/pull/45441"),
    ),
    routed(
        "router_one_fewer_chosen",
        wrong="one expert fewer than the config says",
        right="as many experts as the config says",
        change=OptionChange(
            of_experts(lambda e: replace(e, chosen=max(e.chosen - 1, 1))), "a token goes to one expert here"
        ),
        free=FreeValue(
            "experts of a token:",
            option_of(lambda value: of_experts(lambda e: replace(e, chosen=min(round(value), e.count)))),
            tuple(range(1, 17)),
            "a token goes to {} experts",
            counts=True,
        ),
        seen=github("JieShibo/MoLE/issues/7"),
    ),
)
