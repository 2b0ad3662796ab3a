"""Bugs of weight loading: biases, layouts, the wrong layer. They work on any port."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.architecture import Architecture
from harness.mutants.mutant import LAYER_PARAMETERS, Mutant, WeightChange, kinds
from harness.mutants.needs import Need, bias


def only(suffix: str, change: Callable[[np.ndarray, Architecture], np.ndarray]) -> WeightChange:
    """Change the parameters whose names end like this."""
    return WeightChange(lambda name, tensor, arch: change(tensor, arch) if name.endswith(suffix) else tensor)


SQUARE_O = Need(
    "architecture",
    lambda model: model.architecture.heads * model.architecture.head_dim == model.architecture.hidden,
    "o_proj is not square: transposed, it has another shape, and loading refuses it",
)


def _layer_below(name: str, arch: Architecture) -> str:
    return name.replace("model.layers.2.", "model.layers.1.")


MUTANTS = (
    Mutant(
        "q_bias_missing",
        wrong="q = W x",
        right="q = W x + b",
        introduced=kinds("q"),
        change=only("q_proj.bias", lambda tensor, arch: np.zeros_like(tensor)),
        needs=(bias("q_proj"),),
        seen=(
            "https://github.com/sbryngelson/ANEForge/pull/253",
            "https://github.com/OminiX-ai/OminiX-MLX/pull/7",
        ),
    ),
    Mutant(
        "o_transposed",
        wrong="o = W^T x",
        right="o = W x",
        introduced=kinds("attn_out"),
        change=only("o_proj.weight", lambda tensor, arch: tensor.T),
        needs=(SQUARE_O,),
        seen=("https://github.com/vllm-project/vllm/issues/44110",),
    ),
    Mutant(
        "layer_repeated",
        wrong="layer 2 has the weights of layer 1",
        right="every layer has its own",
        introduced=LAYER_PARAMETERS,
        change=WeightChange(source=_layer_below),
        layers=(2,),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/3191",),
    ),
)
