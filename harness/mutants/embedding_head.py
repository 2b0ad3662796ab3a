"""Bugs at both ends: the embedding, the last norm and the head."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from harness.mutants.free import around_of, capping, decades, rounding, scaling, times
from harness.mutants.introduced import kinds
from harness.mutants.loading import changed
from harness.mutants.mutant import ConfigChange, FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import UNTIED, WIDE, varied
from harness.mutants.norms import MISSING, TWICE
from harness.run.operations import Hidden, embed, linear

HEAD = "logits = W h"


def _scaled(factor: float | None = None) -> OperationChange:
    """By a factor; None is sqrt(hidden)."""
    return OperationChange({"embed": lambda table, ids: times(embed(table, ids), factor or table.shape[1] ** 0.5)})


def _rows_away(value: float) -> OperationChange:
    def look_up(table: Array, ids: Int[Array, "batch position"]) -> Hidden:
        return embed(table, jnp.clip(ids + round(value), 0, len(table) - 1))

    return OperationChange({"embed": look_up})


def _never_loaded(x: Hidden, kernel: Array, bias: Array | None) -> Array:
    """Some numbers of the size of an initialization, always the same ones."""
    random = np.random.default_rng(0).normal(scale=0.02, size=kernel.shape)
    return linear(x, jnp.asarray(random, kernel.dtype), bias)


def _padding_rows_zeroed(tensor: np.ndarray) -> np.ndarray:
    return np.concatenate([tensor[:-1], np.zeros_like(tensor[-1:])])


embedding = partial(Mutant, right="x = E[id]", introduced=kinds("embed"))
head = partial(Mutant, right=HEAD, introduced=kinds("logits"))
MUTANTS = (
    embedding(
        "embed_scaled",
        wrong="x = sqrt(hidden) E[id], as in Gemma",
        change=_scaled(),
        free=FreeValue("factor =", _scaled, decades(-3, 3, 1), "x = {} E[id]"),
        seen=github("vllm-project/vllm/pull/36787", "ml-explore/mlx-examples/pull/591"),
    ),
    embedding(
        "embed_off_by_one",
        wrong="x = E[id - 1]",
        change=_rows_away(-1),
        free=FreeValue("rows away:", _rows_away, (-3, -2, -1, 1, 2, 3), "x = E[id + {}]", counts=True),
    ),
    Mutant(
        "final_norm_missing",
        wrong="logits of the residual stream",
        right="logits of its norm",
        introduced=kinds("final_norm"),
        change=OperationChange({"final_norm": MISSING}),
        seen=github("vllm-project/speculators/pull/313", "NVIDIA/Model-Optimizer/pull/1846"),
    ),
    Mutant(
        "final_norm_twice",
        wrong="norm(norm(x))",
        right="norm(x)",
        introduced=kinds("final_norm"),
        change=OperationChange({"final_norm": TWICE}),
        needs=(varied("final_norm"),),
        seen=github("ggml-org/llama.cpp/pull/1925"),
    ),
    head(
        "head_scaled",
        wrong="logits = W h / 8, a scaling that other models have",
        change=OperationChange({"head": scaling(1 / 8)(linear)}),
        free=FreeValue("factor =", around_of("head", scaling), decades(-3, 3, 1), "logits = {} W h"),
        seen=github("OpenNMT/CTranslate2/pull/1882", "unslothai/unsloth/pull/1218"),
    ),
    head(
        "head_softcapped",
        wrong="logits = 30 tanh(W h / 30), as in Gemma 2",
        change=OperationChange({"head": capping(30.0)(linear)}),
        free=FreeValue("cap =", around_of("head", capping), decades(0, 3), "logits = {0} tanh(W h / {0})"),
        seen=github("ggml-org/llama.cpp/pull/8197"),
    ),
    head(
        "head_tied",
        wrong="logits = E h",
        change=ConfigChange(lambda config: {"tie_word_embeddings": True}),
        needs=(UNTIED,),
        seen=github("pegainfer-project/pegainfer/pull/544", "Comfy-Org/ComfyUI/pull/15048"),
    ),
    head(
        "head_not_loaded",
        wrong="logits = R h: the checkpoint has no head of its own, and the port's stays random",
        change=OperationChange({"head": _never_loaded}),
        seen=github("huggingface/transformers/pull/43429", "vllm-project/vllm/pull/53020"),
    ),
    head(
        "head_padding_zeroed",
        wrong="rows beyond the tokenizer's vocabulary are 0, so that their logit is 0",
        change=changed("logits", by=_padding_rows_zeroed),
        needs=(UNTIED,),
        seen=github("mirage-project/mirage/issues/751", "tenstorrent/tt-metal/pull/38881"),
    ),
    head(
        "head_rounded",
        wrong="logits = bfloat16(W h), made wide afterwards",
        change=NumericsChange({"head": rounding(linear)}),
        needs=(WIDE,),
        seen=github("marin-community/marin/pull/8217", "sgl-project/sglang/issues/33627"),
    ),
)
