"""Bugs of weight layouts: the right numbers in the wrong order. They work on any port."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.architecture import Architecture
from harness.mutants.loading import of
from harness.mutants.mutant import Mutant, Read, WeightChange, kinds
from harness.mutants.needs import SEVERAL_KV_HEADS, SQUARE_ATTENTION

HEADS_FIRST = "rows in the order (head, head_dim)"
TRANSPOSED = (
    "https://github.com/vllm-project/vllm/issues/44110",
    "https://github.com/meta-pytorch/tritonbench/pull/887",
)
PARTS = ("q_proj", "k_proj", "v_proj")


def rows_of(*projections: str) -> Callable[[Callable[[np.ndarray, int], np.ndarray]], WeightChange]:
    """A change of the rows of projections, weight and bias alike: (tensor, head_dim) -> tensor."""

    def changed(change: Callable[[np.ndarray, int], np.ndarray]) -> WeightChange:
        def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
            tensor = read(name)
            return change(tensor, arch.head_dim) if name.split(".")[-2] in projections else tensor

        return WeightChange(load)

    return changed


def _dims_first(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (head, head_dim) as (head_dim, head)."""
    return tensor.reshape(-1, head_dim, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def _halves_interleaved(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Within each head, rows (half, pair) as (pair, half): the permutation for an interleaved RoPE."""
    halves = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _columns_dims_first(name: str, read: Read, arch: Architecture) -> np.ndarray:
    tensor = read(name)
    return _dims_first(tensor.T, arch.head_dim).T if name.endswith("o_proj.weight") else tensor


def _exchanged(first: str, second: str) -> WeightChange:
    """Two parameters of one shape, each loaded as the other."""
    return WeightChange(
        lambda name, read, arch: read(
            name.replace(first, second) if first in name else name.replace(second, first)
        )
    )


def _qkv_packing(name: str, read: Read, arch: Architecture) -> np.ndarray:
    """Packed by KV head (its queries, its key, its value), and split as all q, all k, all v."""
    parts = name.split(".")
    if parts[-2] not in PARTS:
        return read(name)
    at = PARTS.index(parts[-2])
    tensors = [read(".".join([*parts[:-2], part, parts[-1]])) for part in PARTS]
    packed = np.concatenate(
        [tensor.reshape(arch.kv_heads, -1, *tensor.shape[1:]) for tensor in tensors], axis=1
    ).reshape(-1, *tensors[0].shape[1:])
    start = sum(len(tensor) for tensor in tensors[:at])
    return packed[start : start + len(tensors[at])]


def _gate_up_packing(name: str, read: Read, arch: Architecture) -> np.ndarray:
    """Packed as [gate, up], and split as every other row."""
    part = name.split(".")[-2]
    if part not in ("gate_proj", "up_proj"):
        return read(name)
    packed = np.concatenate([read(name.replace(part, "gate_proj")), read(name.replace(part, "up_proj"))])
    return packed[0 if part == "gate_proj" else 1 :: 2]


MUTANTS = (
    Mutant(
        "q_transposed",
        wrong="q = W^T x + b",
        right="q = W x + b",
        introduced=kinds("q"),
        change=of("q_proj.weight")(np.transpose),
        needs=(SQUARE_ATTENTION,),
        seen=TRANSPOSED,
    ),
    Mutant(
        "o_transposed",
        wrong="attn_out = W^T context",
        right="attn_out = W context",
        introduced=kinds("attn_out"),
        change=of("o_proj.weight")(np.transpose),
        needs=(SQUARE_ATTENTION,),
        seen=TRANSPOSED,
    ),
    Mutant(
        "q_heads_reshaped",
        wrong="rows of q_proj in the order (head_dim, head)",
        right=HEADS_FIRST,
        introduced=kinds("q"),
        change=rows_of("q_proj")(_dims_first),
        seen=("https://github.com/nntile/nntile/pull/347",),
    ),
    Mutant(
        "kv_heads_reshaped",
        wrong="rows of k_proj and v_proj in the order (head_dim, head)",
        right=HEADS_FIRST,
        introduced=kinds("k", "v"),
        change=rows_of("k_proj", "v_proj")(_dims_first),
        needs=(SEVERAL_KV_HEADS,),
        seen=("https://github.com/nntile/nntile/pull/347",),
    ),
    Mutant(
        "o_heads_reshaped",
        wrong="columns of o_proj in the order (head_dim, head)",
        right="columns in the order (head, head_dim)",
        introduced=kinds("attn_out"),
        change=WeightChange(_columns_dims_first),
        seen=("https://github.com/nntile/nntile/pull/347",),
    ),
    Mutant(
        "qk_permuted_for_interleaved_rope",
        wrong="rows of q_proj and k_proj permuted as for RoPE on pairs (2i, 2i + 1)",
        right="rows as stored, for RoPE on pairs (i, i + head_dim / 2)",
        introduced=kinds("q", "k"),
        change=rows_of("q_proj", "k_proj")(_halves_interleaved),
        seen=(
            "https://github.com/ggml-org/llama.cpp/pull/3364",
            "https://github.com/AI-Hypercomputer/maxtext/pull/581",
            "https://github.com/huggingface/transformers/pull/31788",
        ),
    ),
    Mutant(
        "kv_exchanged",
        wrong="k = W_v x + b_v, v = W_k x + b_k",
        right="k = W_k x + b_k, v = W_v x + b_v",
        introduced=kinds("k", "v"),
        change=_exchanged("k_proj", "v_proj"),
        seen=("https://github.com/huggingface/transformers/pull/40257",),
    ),
    Mutant(
        "gate_up_exchanged",
        wrong="gate = W_up x, up = W_gate x",
        right="gate = W_gate x, up = W_up x",
        introduced=kinds("gate", "up"),
        change=_exchanged("gate_proj", "up_proj"),
        seen=("https://github.com/tenstorrent/tt-metal/pull/52818",),
    ),
    Mutant(
        "qkv_packing",
        wrong="packed by KV head, split as all q, all k, all v",
        right="packed and split alike",
        introduced=kinds("q", "k", "v"),
        change=WeightChange(_qkv_packing),
        needs=(SEVERAL_KV_HEADS,),
        seen=("https://github.com/vllm-project/vllm/pull/26347",),
    ),
    Mutant(
        "gate_up_packing",
        wrong="packed as [gate, up], split as [::2], [1::2]",
        right="packed and split alike",
        introduced=kinds("gate", "up"),
        change=WeightChange(_gate_up_packing),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/2241",),
    ),
)
