"""Bugs at both ends: the embedding, the last norm and the head."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from harness.mutants.free import around_of, capping, decades, scaling, times
from harness.mutants.loading import changed
from harness.mutants.mutant import ConfigChange, FreeValue, Mutant, NumericsChange, OperationChange, kinds
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


def _rounded(x: Hidden, kernel: Array, bias: Array | None) -> Array:
    logits = linear(x, kernel, bias)
    return logits.astype(jnp.bfloat16).astype(logits.dtype)


def _never_loaded(x: Hidden, kernel: Array, bias: Array | None) -> Array:
    """Some numbers of the size of an initialization, always the same ones."""
    random = np.random.default_rng(0).normal(scale=0.02, size=kernel.shape)
    return linear(x, jnp.asarray(random, kernel.dtype), bias)


def _padding_rows_zeroed(tensor: np.ndarray) -> np.ndarray:
    return np.concatenate([tensor[:-1], np.zeros_like(tensor[-1:])])


MUTANTS = (
    Mutant(
        "embed_scaled",
        wrong="x = sqrt(hidden) E[id], as in Gemma",
        right="x = E[id]",
        introduced=kinds("embed"),
        change=_scaled(),
        free=FreeValue("factor =", _scaled, decades(-3, 3, 1), "x = {} E[id]"),
        seen=(
            "https://github.com/vllm-project/vllm/pull/36787",
            "https://github.com/ml-explore/mlx-examples/pull/591",
        ),
    ),
    Mutant(
        "embed_off_by_one",
        wrong="x = E[id - 1]",
        right="x = E[id]",
        introduced=kinds("embed"),
        change=_rows_away(-1),
        free=FreeValue("rows away:", _rows_away, (-3, -2, -1, 1, 2, 3), "x = E[id + {}]", counts=True),
    ),
    Mutant(
        "final_norm_missing",
        wrong="logits of the residual stream",
        right="logits of its norm",
        introduced=kinds("final_norm"),
        change=OperationChange({"final_norm": MISSING}),
        seen=(
            "https://github.com/vllm-project/speculators/pull/313",
            "https://github.com/NVIDIA/Model-Optimizer/pull/1846",
        ),
    ),
    Mutant(
        "final_norm_twice",
        wrong="norm(norm(x))",
        right="norm(x)",
        introduced=kinds("final_norm"),
        change=OperationChange({"final_norm": TWICE}),
        needs=(varied("final_norm"),),
        seen=("https://github.com/ggml-org/llama.cpp/pull/1925",),
    ),
    Mutant(
        "head_scaled",
        wrong="logits = W h / 8, a scaling that other models have",
        right=HEAD,
        introduced=kinds("logits"),
        change=OperationChange({"head": scaling(1 / 8)(linear)}),
        free=FreeValue("factor =", around_of("head", scaling), decades(-3, 3, 1), "logits = {} W h"),
        seen=(
            "https://github.com/OpenNMT/CTranslate2/pull/1882",
            "https://github.com/unslothai/unsloth/pull/1218",
        ),
    ),
    Mutant(
        "head_softcapped",
        wrong="logits = 30 tanh(W h / 30), as in Gemma 2",
        right=HEAD,
        introduced=kinds("logits"),
        change=OperationChange({"head": capping(30.0)(linear)}),
        free=FreeValue("cap =", around_of("head", capping), decades(0, 3), "logits = {0} tanh(W h / {0})"),
        seen=("https://github.com/ggml-org/llama.cpp/pull/8197",),
    ),
    Mutant(
        "head_tied",
        wrong="logits = E h",
        right=HEAD,
        introduced=kinds("logits"),
        change=ConfigChange(lambda config: {"tie_word_embeddings": True}),
        needs=(UNTIED,),
        seen=(
            "https://github.com/pegainfer-project/pegainfer/pull/544",
            "https://github.com/Comfy-Org/ComfyUI/pull/15048",
        ),
    ),
    Mutant(
        "head_not_loaded",
        wrong="logits = R h: the checkpoint has no head of its own, and the port's stays random",
        right=HEAD,
        introduced=kinds("logits"),
        change=OperationChange({"head": _never_loaded}),
        seen=(
            "https://github.com/huggingface/transformers/pull/43429",
            "https://github.com/vllm-project/vllm/pull/53020",
        ),
    ),
    Mutant(
        "head_padding_zeroed",
        wrong="rows beyond the tokenizer's vocabulary are 0, so that their logit is 0",
        right=HEAD,
        introduced=kinds("logits"),
        change=changed("logits", by=_padding_rows_zeroed),
        needs=(UNTIED,),
        seen=(
            "https://github.com/mirage-project/mirage/issues/751",
            "https://github.com/tenstorrent/tt-metal/pull/38881",
        ),
    ),
    Mutant(
        "head_rounded",
        wrong="logits = bfloat16(W h), made wide afterwards",
        right=HEAD,
        introduced=kinds("logits"),
        change=NumericsChange({"head": _rounded}),
        needs=(WIDE,),
        seen=(
            "https://github.com/marin-community/marin/pull/8217",
            "https://github.com/sgl-project/sglang/issues/33627",
        ),
    ),
)
