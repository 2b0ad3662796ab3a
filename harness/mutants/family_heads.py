"""Queries, keys and scores between families: where and over what they are normed, and when they are capped."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool

from harness.mutants.family_norms import QK_NORM
from harness.mutants.introduced import HEAD_NORMS, kinds
from harness.mutants.loading import exchanged
from harness.mutants.mutant import Among, Around, Mutant, OperationChange, github
from harness.mutants.needs import PAIR, SEVERAL_HEADS, has, model_has, values, varied
from harness.run.arithmetic import norm_all_heads
from harness.run.operations import Heads, Operations, Probs

Normed = Callable[..., Array]
Turn = Callable[[Heads], Heads]
TURNED = model_has(lambda arch: any(arch.ropes), "no layer of this model has RoPE")
ONE_BY_ONE = model_has(lambda arch: arch.qk_norm_over != "all", "all heads are normed together here")
TOGETHER = model_has(lambda arch: arch.qk_norm_over == "all", "heads are normed one by one here")
NO_GROUPS = model_has(
    lambda arch: arch.heads == arch.kv_heads,
    "queries and keys have different shapes here: exchanged, loading refuses them",
)
CAPPED = model_has(lambda arch: arch.score_cap is not None, "scores are not capped here")
SMALL_CAP = values("exp(-cap) is below the rounding of probabilities", "a smaller cap on the scores")


def _turned_first(x: Heads, norm: Turn, turn: Turn) -> Heads:
    return norm(turn(x))


def _all_together(x: Heads, norm: Normed, *weights: Array | None) -> Heads:
    """The weight of a head is that of every head."""
    spread = (None if w is None else jnp.broadcast_to(w, x.shape[2:]).reshape(-1) for w in weights)
    return norm_all_heads(x, norm, *spread)


def _one_by_one(x: Heads, norm: Normed, *weights: Array | None) -> Heads:
    """Each head has its part of the weight of all."""
    return norm(x, *(None if w is None else w.reshape(x.shape[2:]) for w in weights))


def _capped_last(ops: Operations) -> Callable[..., Probs]:
    """The scores come capped; those that are hidden are capped here: the minimum becomes -cap, which is seen."""

    def wrong(scores: Probs, allowed: Bool[Array, "batch 1 position key"], *sinks: Array) -> Probs:
        hidden = ops.score_cap(jnp.full_like(scores, jnp.finfo(scores.dtype).min))
        return ops.probabilities(jnp.where(allowed, scores, hidden), jnp.ones_like(allowed), *sinks)

    return wrong


MUTANTS = (
    Mutant(
        "qk_exchanged",
        wrong="q = W_k x + b_k, k = W_q x + b_q",
        right="q = W_q x + b_q, k = W_k x + b_k",
        introduced=kinds("q", "k"),
        change=exchanged(q="k"),
        needs=(has("q", "k"), NO_GROUPS),
    ),
    # What the norms give is then what attention is given, so that each is wrong where it stands for the other.
    Mutant(
        "qk_norms_after_rope",
        wrong="norm(R q), norm(R k)",
        right=QK_NORM,
        introduced=HEAD_NORMS | {"q_rope", "k_rope"},
        change=OperationChange({"norm_then_turn": _turned_first}),
        needs=(has("q_norm", "k_norm"), TURNED, varied("q_norm"), PAIR),
        seen=github("vllm-project/vllm-metal/issues/660", "hw-native-sys/pypto-lib/pull/792"),
    ),
    Mutant(
        "qk_norm_over_all_heads",
        wrong="one norm over all heads of a token, each with the weight of a head",
        right="a norm over each head",
        introduced=HEAD_NORMS,
        change=OperationChange({"norm_heads": _all_together}),
        needs=(has("q_norm", "k_norm"), ONE_BY_ONE, SEVERAL_HEADS),
        seen=github("vllm-project/vllm/pull/16311"),
    ),
    Mutant(
        "qk_norm_by_head",
        wrong="a norm over each head, with its part of the weight",
        right="one norm over all heads of a token",
        introduced=HEAD_NORMS,
        change=OperationChange({"norm_heads": Around(lambda _: _one_by_one)}),
        needs=(has("q_norm", "k_norm"), TOGETHER, SEVERAL_HEADS),
        seen=github("vllm-project/vllm-metal/issues/767", "lablup/mlxcel/pull/317"),
    ),
    Mutant(
        "score_cap_after_mask",
        wrong="cap tanh(s / cap) of masked scores: hidden keys have exp(-cap)",
        right="capped, then masked",
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": Among(_capped_last)}, unmasks=True),
        needs=(CAPPED, PAIR, SMALL_CAP),
        seen=github(
            "Dao-AILab/flash-attention/pull/1025", "emmtrix/emx-onnx-cgen/pull/731", "onnx/onnx/issues/7865"
        ),
    ),
)
