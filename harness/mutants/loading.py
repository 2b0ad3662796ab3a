"""Bugs of weight loading: biases, layers, what was not loaded. They work on any port. See also layouts.py."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from harness.architecture import Architecture
from harness.mutants.mutant import EVERY_MATMUL, LAYER_PARAMETERS, Mutant, Read, WeightChange, kinds
from harness.mutants.needs import BEYOND_FLOAT16, STORED_WIDE, bias, layers, varied

OWN = "every layer has its own weights"
NOT_LOADED = (
    "https://github.com/huggingface/transformers/issues/12528",
    "https://github.com/huggingface/diffusers/issues/4840",
    "https://github.com/kekzl/imp/issues/1282",
)


def of(*endings: str) -> Callable[[Callable[[np.ndarray], np.ndarray]], WeightChange]:
    """A change of the parameters whose names end like this."""

    def changed(change: Callable[[np.ndarray], np.ndarray]) -> WeightChange:
        return WeightChange(lambda name, read, arch: change(read(name)) if name.endswith(endings) else read(name))

    return changed


def layer_from(other: Callable[[int, int], int]) -> WeightChange:
    """Layers that are loaded from others: (index, number of layers) -> the index that is read."""

    def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(other(int(parts[2]), arch.layers))
        return read(".".join(parts))

    return WeightChange(load)


def lexicographic(index: int, count: int) -> int:
    """The layer that stands at `index` where names are sorted as text: 0, 1, 10, 11, 2, ..."""
    return sorted(range(count), key=str)[index]


def _norms_swapped(name: str, read: Read, arch: Architecture) -> np.ndarray:
    first, second = "input_layernorm", "post_attention_layernorm"
    return read(name.replace(first, second) if first in name else name.replace(second, first))


def _through_float16(tensor: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return tensor.astype(np.float16).astype(tensor.dtype)


def _narrowed(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(ml_dtypes.bfloat16).astype(tensor.dtype)


MUTANTS = (
    *(
        Mutant(
            f"{name}_bias_missing",
            wrong=f"{name} = W x",
            right=f"{name} = W x + b",
            introduced=kinds(name),
            change=of(f"{name}_proj.bias")(np.zeros_like),
            needs=(bias(f"{name}_proj"),),
            seen=(
                "https://github.com/sbryngelson/ANEForge/pull/253",
                "https://github.com/OminiX-ai/OminiX-MLX/pull/7",
                "https://github.com/ServiceNow/Fast-LLM/pull/398",
            ),
        )
        for name in ("q", "k", "v")
    ),
    Mutant(
        "qkv_biases_missing",
        wrong="q, k, v = W x",
        right="q, k, v = W x + b",
        introduced=kinds("q", "k", "v"),
        change=of("q_proj.bias", "k_proj.bias", "v_proj.bias")(np.zeros_like),
        needs=(bias("q_proj"), bias("k_proj"), bias("v_proj")),
        seen=("https://github.com/EricLBuehler/candle-vllm/pull/167",),
    ),
    Mutant(
        "norm_weights_swapped",
        wrong="the norms before attention and before the MLP have each other's weights",
        right="each has its own",
        introduced=kinds("attn_norm", "mlp_norm"),
        change=WeightChange(_norms_swapped),
        needs=(varied("input_layernorm"),),
        seen=(
            "https://github.com/NVIDIA-NeMo/Speech/issues/11951",
            "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4201",
        ),
    ),
    Mutant(
        "layer_repeated",
        wrong="layer 2 has the weights of layer 1",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(lambda index, count: 1 if index == 2 else index),
        layers=(2,),
        needs=(layers(3),),
        seen=("https://github.com/AI-Hypercomputer/maxtext/issues/528",),
    ),
    Mutant(
        "layers_swapped",
        wrong="layers 1 and 2 have each other's weights",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(lambda index, count: {1: 2, 2: 1}.get(index, index)),
        layers=(1, 2),
        needs=(layers(3),),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/3191",),
    ),
    Mutant(
        "layers_shifted",
        wrong="layer i has the weights of layer i + 1, and the first comes last",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(lambda index, count: (index + 1) % count),
        needs=(layers(2),),
        seen=("https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4875",),
    ),
    Mutant(
        "layers_as_text",
        wrong="layers in the order of their names: 0, 1, 10, 11, 2",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(lexicographic),
        needs=(layers(11),),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/3191",),
    ),
    Mutant(
        "norm_not_loaded",
        wrong="the weight of a norm stays at its initial 1",
        right="it is loaded",
        introduced=kinds("mlp_norm"),
        change=of("layers.1.post_attention_layernorm.weight")(np.ones_like),
        layers=(1,),
        needs=(layers(2), varied("post_attention_layernorm")),
        seen=NOT_LOADED,
    ),
    Mutant(
        "up_not_loaded",
        wrong="up_proj of one layer stays at 0",
        right="it is loaded",
        introduced=kinds("up"),
        change=of("layers.1.mlp.up_proj.weight")(np.zeros_like),
        layers=(1,),
        needs=(layers(2),),
        seen=NOT_LOADED,
    ),
    Mutant(
        "weights_through_float16",
        wrong="parameters converted to float16 on the way in",
        right="as the checkpoint stores them",
        introduced=EVERY_MATMUL | {"embed", "attn_norm", "mlp_norm", "final_norm"},
        change=of("weight", "bias")(_through_float16),
        needs=(BEYOND_FLOAT16,),
        seen=(
            "https://github.com/google/saxml/issues/28",
            "https://github.com/facebookresearch/metaseq/pull/254",
        ),
    ),
    Mutant(
        "weights_narrowed",
        wrong="parameters rounded to bfloat16 as they are loaded",
        right="as the checkpoint stores them",
        introduced=EVERY_MATMUL | {"embed", "attn_norm", "mlp_norm", "final_norm"},
        change=of("weight", "bias")(_narrowed),
        needs=(STORED_WIDE,),
        seen=("https://github.com/huggingface/transformers/pull/16762",),
    ),
)
