"""Blocks between families: attention and MLP after each other or side by side, with norms before them or after.

A tap is what stands in its place, whatever made it: where a norm is missing it is what the norm would have been
given, and where one is in another place it is a part of what is computed there.
"""

from __future__ import annotations

from dataclasses import replace

from harness.families.options import Architecture, Placement
from harness.mutants.family_norms import POST_NORMS
from harness.mutants.introduced import kinds
from harness.mutants.loading import exchanged
from harness.mutants.mutant import Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import Need, has, model_has, varied
from harness.mutants.norms import MISSING

ONE_NORM: Placement = "parallel"
TWO_NORMS: Placement = "parallel_two"
PRE, POST, BOTH = "x + f(norm(x))", "x + norm(f(x))", "x + last(f(first(x)))"
SEQUENTIAL = OperationChange({"read_beside": lambda x, update, norm, normed: norm(x + update)})
PARALLEL = github("elixir-nx/bumblebee/pull/204")


def placed(lacking: str, *placements: Placement) -> Need:
    """The norms of attention and MLP are in one of these places."""
    return model_has(lambda arch: arch.placement in placements, lacking)


def _side_by_side(arch: Architecture) -> Architecture:
    return replace(arch, placement=TWO_NORMS) if arch.placement == "pre" else arch


MUTANTS = (
    Mutant(
        "parallel_as_sequential",
        wrong="the MLP reads norm(x + attention)",
        right="attention and MLP read the same residual stream",
        introduced=kinds("mlp_norm"),
        change=SEQUENTIAL,
        needs=(placed("attention and MLP do not read a norm each of one residual stream here", TWO_NORMS),),
        seen=PARALLEL,
    ),
    Mutant(
        "parallel_as_sequential_one_norm",
        wrong="the MLP reads norm(x + attention), by the norm that attention has",
        right="attention and MLP read one norm of the residual stream",
        introduced=kinds("gate", "up"),
        change=SEQUENTIAL,
        needs=(placed("attention and MLP do not share a norm here", ONE_NORM),),
        seen=PARALLEL,
    ),
    Mutant(
        "sequential_as_parallel",
        wrong="the MLP reads norm(x), beside attention",
        right="the MLP reads norm(x + attention)",
        introduced=kinds("mlp_norm"),
        change=OptionChange(_side_by_side, "attention and MLP do not follow each other with one norm each here"),
        seen=github("ml-explore/mlx-lm/pull/586", "ggml-org/ggml/pull/139"),
    ),
    Mutant(
        "post_norms_as_pre",
        wrong=PRE,
        right=POST,
        introduced=kinds("q", "k", "v", "attn_post_norm", "gate", "up", "mlp_post_norm"),
        change=OperationChange({"read_unnormed": lambda x, norm: norm(x), **POST_NORMS}),
        needs=(placed("attention and MLP read a norm here", "post"),),
        seen=github("EleutherAI/gpt-neox/pull/1408"),
    ),
    Mutant(
        "pre_norms_as_post",
        wrong=POST,
        right=PRE,
        introduced=kinds("attn_norm", "mlp_norm", "resid_mid", "resid_post"),
        change=OperationChange(
            {"added_unnormed": lambda x, norm: norm(x), "attn_norm": MISSING, "mlp_norm": MISSING}
        ),
        needs=(placed("attention and MLP do not follow each other with one norm before each here", "pre"),),
    ),
    Mutant(
        "post_norms_after_sum",
        wrong="norm(x + f(x))",
        right=POST,
        introduced=kinds("attn_post_norm", "mlp_post_norm", "resid_mid", "resid_post"),
        change=OperationChange({"left_unnormed": lambda x, norm: norm(x), **POST_NORMS}),
        needs=(has("attn_post_norm"),),
        seen=github("google/flax/issues/4567"),
    ),
    Mutant(
        "first_and_last_norm_weights_swapped",
        wrong="the norms before and after attention have each other's weights, and those of the MLP",
        right="each has its own",
        introduced=kinds("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm"),
        change=exchanged(attn_norm="attn_post_norm", mlp_norm="mlp_post_norm"),
        needs=(has("attn_norm", "attn_post_norm"), varied("attn_norm"), varied("mlp_norm")),
    ),
    Mutant(
        "residual_from_norm",
        wrong="norm(x) + f(norm(x))",
        right=PRE,
        introduced=kinds("resid_mid", "resid_post"),
        change=OperationChange({"carried": lambda x, read: read}),
        needs=(placed("nothing is normed before attention here, or the MLP lies beside it", "pre", "sandwich"),),
        seen=github(
            "allenai/OLMo/pull/680",
            "pytorch/pytorch/issues/61165",
            "Howuhh/faster-trajectory-transformer/issues/3",
        ),
    ),
)
