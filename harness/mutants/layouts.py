"""Bugs of weight layouts: the right numbers in the wrong order. They work on any port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from harness.architecture import Architecture
from harness.families import families
from harness.mutants.free import forms
from harness.mutants.introduced import kinds
from harness.mutants.loading import Own, changed, exchanged, loaded
from harness.mutants.mutant import Mutant, WeightChange, github
from harness.mutants.needs import SEVERAL_KV_HEADS, SQUARE_ATTENTION, has, model_has

PARTS = ("q", "k", "v")
NOT_BY_HEAD = model_has(
    lambda arch: not families()[arch.family].by_head,
    "queries, keys and values are stored head by head here: split so, they are right",
)


def rows(*kinds_: str, by: Callable[[np.ndarray, int], np.ndarray]) -> WeightChange:
    """A change of the rows of projections, weight and bias alike: (tensor, head_dim) -> tensor."""
    return loaded(kinds_, lambda own, kind, arch: by(own(kind), arch.head_dim))


def columns(by: Callable[[np.ndarray, int], np.ndarray]) -> WeightChange:
    """A change of the columns of the projection after attention, as it would be of rows."""
    return loaded(("attn_out",), lambda own, kind, arch: by(own(kind).T, arch.value_dim).T, "weight")


def _dims_first(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (head, head_dim) as (head_dim, head)."""
    return tensor.reshape(-1, head_dim, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def _heads_first(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (head_dim, head) as (head, head_dim): the other way round."""
    return tensor.reshape(head_dim, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def _halves_interleaved(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Within each head, rows (half, pair) as (pair, half): the permutation for an interleaved RoPE."""
    halves = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _qkv_packing(own: Own, kind: str, arch: Architecture) -> np.ndarray:
    """Packed by KV head (its queries, its key, its value), and split as all q, all k, all v."""
    tensors = [own(part) for part in PARTS]
    packed = np.concatenate(
        [tensor.reshape(arch.kv_heads, -1, *tensor.shape[1:]) for tensor in tensors], axis=1
    ).reshape(-1, *tensors[0].shape[1:])
    at = PARTS.index(kind)
    start = sum(len(tensor) for tensor in tensors[:at])
    return packed[start : start + len(tensors[at])]


def _qkv_by_head(own: Own, kind: str, arch: Architecture) -> np.ndarray:
    """Stored as all q, all k, all v, and split by KV head (its queries, its key, its value)."""
    stored = np.concatenate([own(part) for part in PARTS])
    heads = stored.reshape(arch.kv_heads, -1, arch.head_dim, *stored.shape[1:])
    groups = arch.heads // arch.kv_heads
    at = slice(groups) if kind == "q" else slice(groups + PARTS.index(kind) - 1, groups + PARTS.index(kind))
    return heads[:, at].reshape(-1, *stored.shape[1:])


def _gate_up_packing(own: Own, kind: str, arch: Architecture) -> np.ndarray:
    """Packed as [gate, up], and split as every other row."""
    return np.concatenate([own("gate"), own("up")])[0 if kind == "gate" else 1 :: 2]


transposed = partial(
    Mutant,
    needs=(SQUARE_ATTENTION,),
    seen=github("vllm-project/vllm/issues/44110", "meta-pytorch/tritonbench/pull/887"),
)
reshaped = partial(Mutant, right="rows in the order (head, head_dim)", seen=github("nntile/nntile/pull/347"))
MUTANTS = (
    transposed(
        "q_transposed",
        wrong="q = W^T x + b",
        right="q = W x + b",
        introduced=kinds("q"),
        change=changed("q", by=np.transpose),
    ),
    transposed(
        "o_transposed",
        wrong="attn_out = W^T context",
        right="attn_out = W context",
        introduced=kinds("attn_out"),
        change=changed("attn_out", by=np.transpose),
    ),
    reshaped(
        "q_heads_reshaped",
        wrong="rows of q_proj in the order (head_dim, head)",
        introduced=kinds("q"),
        change=rows("q", by=_dims_first),
        free=forms(the_other_way_round=rows("q", by=_heads_first)),
    ),
    reshaped(
        "kv_heads_reshaped",
        wrong="rows of k_proj and v_proj in the order (head_dim, head)",
        introduced=kinds("k", "v"),
        change=rows("k", "v", by=_dims_first),
        free=forms(the_other_way_round=rows("k", "v", by=_heads_first)),
        needs=(SEVERAL_KV_HEADS,),
    ),
    reshaped(
        "o_heads_reshaped",
        wrong="columns of o_proj in the order (head_dim, head)",
        right="columns in the order (head, head_dim)",
        introduced=kinds("attn_out"),
        change=columns(_dims_first),
        free=forms(the_other_way_round=columns(_heads_first)),
    ),
    Mutant(
        "qk_permuted_for_interleaved_rope",
        wrong="rows of q_proj and k_proj permuted as for RoPE on pairs (2i, 2i + 1)",
        right="rows as stored, for RoPE on pairs (i, i + head_dim / 2)",
        introduced=kinds("q", "k"),
        change=rows("q", "k", by=_halves_interleaved),
        seen=github(
            "ggml-org/llama.cpp/pull/3364",
            "AI-Hypercomputer/maxtext/pull/581",
            "huggingface/transformers/pull/31788",
        ),
    ),
    Mutant(
        "kv_exchanged",
        wrong="k = W_v x + b_v, v = W_k x + b_k",
        right="k = W_k x + b_k, v = W_v x + b_v",
        introduced=kinds("k", "v"),
        change=exchanged(k="v"),
        seen=github("huggingface/transformers/pull/40257"),
    ),
    Mutant(
        "gate_up_exchanged",
        wrong="gate = W_up x, up = W_gate x",
        right="gate = W_gate x, up = W_up x",
        introduced=kinds("gate", "up"),
        change=exchanged(gate="up"),
        needs=(has("gate"),),
        seen=github("tenstorrent/tt-metal/pull/52818"),
    ),
    Mutant(
        "qkv_packing",
        wrong="packed by KV head, split as all q, all k, all v",
        right="packed and split alike",
        introduced=kinds("q", "k", "v"),
        change=loaded(PARTS, _qkv_packing),
        needs=(has(*PARTS), SEVERAL_KV_HEADS),
        seen=github(
            "vllm-project/vllm/pull/26347", "elixir-nx/bumblebee/pull/204", "tenstorrent/tt-metal/issues/6243"
        ),
    ),
    Mutant(
        "qkv_split_by_head",
        wrong="stored as all q, all k, all v, split by KV head",
        right="stored and split alike",
        introduced=kinds("q", "k", "v"),
        change=loaded(PARTS, _qkv_by_head),
        needs=(has(*PARTS), SEVERAL_KV_HEADS, NOT_BY_HEAD),
        seen=github("awslabs/slapo/pull/46"),
    ),
    Mutant(
        "gate_up_packing",
        wrong="packed as [gate, up], split as [::2], [1::2]",
        right="packed and split alike",
        introduced=kinds("gate", "up"),
        change=loaded(("gate", "up"), _gate_up_packing),
        needs=(has("gate"),),
        seen=github("AI-Hypercomputer/maxtext/pull/2241"),
    ),
)
