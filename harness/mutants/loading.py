"""Bugs of weight loading: biases, layers, what was not loaded. They work on any port. See also layouts.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np

from harness.architecture import Architecture
from harness.families import families
from harness.families.graph import kinds_in
from harness.families.parameters import made_with, parameter_of, rows_of
from harness.mutants.mutant import (
    EVERY_PARAMETER,
    LAYER_PARAMETERS,
    FreeValue,
    Mutant,
    Read,
    WeightChange,
    kinds,
)
from harness.mutants.needs import BEYOND_FLOAT16, STORED_WIDE, WIDE, Need, bias, has, layers, varied

OWN = "every layer has its own weights"
NOT_LOADED = (
    "https://github.com/huggingface/transformers/issues/12528",
    "https://github.com/huggingface/diffusers/issues/4840",
    "https://github.com/kekzl/imp/issues/1282",
)


DENSE_SECOND = Need("architecture", lambda m: not m.architecture.is_sparse(1), "the second layer has experts here")
Own = Callable[[str], np.ndarray]
Make = Callable[[Own, str, Architecture], np.ndarray]


def loaded(kinds_: Iterable[str], make: Make, *names: str, layer: int | None = None) -> WeightChange:
    """Parameters of some kinds of taps, loaded as others.

    Args:
        make: (own, kind, architecture) -> what is loaded, as [output, input], where own(kind) is the parameter of
            the same name of any kind in the same layer, as it should be loaded.
        names: `weight`, `bias`; none means both.
        layer: that it happens in; None means wherever it can.
    """
    wanted = frozenset(kinds_)

    def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
        tensor, family = read(name), families()[arch.family]
        index, sharing, last = made_with(family, name)
        here = wanted & set(sharing) & kinds_in(arch)
        if not here or (names and last not in names) or layer not in (None, index):
            return tensor

        def own(kind: str) -> np.ndarray:
            if index is None:
                return read(f"{family.model[kind]}.{last}")
            return parameter_of(family, arch, read, kind, index, last)

        turned = family.stored_transposed and tensor.ndim == 2 and index is not None
        rows = tensor.T.copy() if turned else tensor.copy()
        for kind in here:
            rows[rows_of(family, arch, kind, len(rows))] = make(own, kind, arch)
        return rows.T if turned else rows

    return WeightChange(load)


def as_another(**others: str) -> WeightChange:
    """Parameters that are loaded as those of another kind."""
    return loaded(others, lambda own, kind, arch: own(others[kind]))


def changed(
    *kinds_: str, by: Callable[[np.ndarray], np.ndarray], names: str = "weight", layer: int | None = None
) -> WeightChange:
    """Parameters of some kinds, changed on the way in."""
    return loaded(kinds_, lambda own, kind, arch: by(own(kind)), names, layer=layer)


def everything(change: Callable[[np.ndarray], np.ndarray]) -> WeightChange:
    return WeightChange(lambda name, read, arch: change(read(name)))


def layer_from(other: Callable[[int, int], int]) -> WeightChange:
    """Layers that are loaded from others: (index, number of layers) -> the index that is read."""

    def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
        layers = f"{families()[arch.family].layers}."
        if not name.startswith(layers):
            return read(name)
        index, _, inner = name.removeprefix(layers).partition(".")
        return read(f"{layers}{other(int(index), arch.layers)}.{inner}")

    return WeightChange(load)


def alike(other: Callable[[int, int], int]) -> Need:
    """A layer and the one that is loaded in its place have parameters of the same names."""
    return Need(
        "architecture",
        lambda m: all(
            m.architecture.is_sparse(index) == m.architecture.is_sparse(other(index, m.architecture.layers))
            for index in range(m.architecture.layers)
        ),
        "some layers have experts here: a parameter of another layer is missing, and loading refuses that",
    )


def lexicographic(index: int, count: int) -> int:
    """The layer that stands at `index` where names are sorted as text: 0, 1, 10, 11, 2, ..."""
    return sorted(range(count), key=str)[index]


def repeated(index: int, count: int) -> int:
    return 1 if index == 2 else index


def swapped(index: int, count: int) -> int:
    return {1: 2, 2: 1}.get(index, index)


def shifted(index: int, count: int) -> int:
    return (index + 1) % count


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
            change=changed(name, by=np.zeros_like, names="bias"),
            needs=bias(name),
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
        change=changed("q", "k", "v", by=np.zeros_like, names="bias"),
        needs=bias("q", "k", "v"),
        seen=("https://github.com/EricLBuehler/candle-vllm/pull/167",),
    ),
    Mutant(
        "norm_weights_swapped",
        wrong="the norms before attention and before the MLP have each other's weights",
        right="each has its own",
        introduced=kinds("attn_norm", "mlp_norm"),
        change=as_another(attn_norm="mlp_norm", mlp_norm="attn_norm"),
        needs=(has("attn_norm", "mlp_norm"), varied("attn_norm")),
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
        change=layer_from(repeated),
        layers=(2,),
        needs=(layers(3), alike(repeated)),
        seen=("https://github.com/AI-Hypercomputer/maxtext/issues/528",),
    ),
    Mutant(
        "layers_swapped",
        wrong="layers 1 and 2 have each other's weights",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(swapped),
        layers=(1, 2),
        needs=(layers(3), alike(swapped)),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/3191",),
    ),
    Mutant(
        "layers_shifted",
        wrong="layer i has the weights of layer i + 1, and the first comes last",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(shifted),
        free=FreeValue(
            "weights of layer",
            lambda value: layer_from(lambda index, count: round(value) % count),
            tuple(range(128)),
            "a layer has the weights of another",
            counts=True,
            by_layer=True,
        ),
        needs=(layers(2), alike(shifted)),
        seen=("https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/4875",),
    ),
    Mutant(
        "layers_as_text",
        wrong="layers in the order of their names: 0, 1, 10, 11, 2",
        right=OWN,
        introduced=LAYER_PARAMETERS,
        change=layer_from(lexicographic),
        needs=(layers(11), alike(lexicographic)),
        seen=("https://github.com/AI-Hypercomputer/maxtext/pull/3191",),
    ),
    Mutant(
        "norm_not_loaded",
        wrong="the weight of a norm stays at its initial 1",
        right="it is loaded",
        introduced=kinds("mlp_norm"),
        change=changed("mlp_norm", by=np.ones_like, layer=1),
        layers=(1,),
        needs=(layers(2), varied("mlp_norm")),
        seen=NOT_LOADED,
    ),
    Mutant(
        "up_not_loaded",
        wrong="up_proj of one layer stays at 0",
        right="it is loaded",
        introduced=kinds("up"),
        change=changed("up", by=np.zeros_like, layer=1),
        layers=(1,),
        needs=(layers(2), DENSE_SECOND),
        seen=NOT_LOADED,
    ),
    Mutant(
        "weights_through_float16",
        wrong="parameters converted to float16 on the way in",
        right="as the checkpoint stores them",
        introduced=EVERY_PARAMETER,
        change=everything(_through_float16),
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
        introduced=EVERY_PARAMETER,
        change=everything(_narrowed),
        needs=(STORED_WIDE, WIDE),
        seen=("https://github.com/huggingface/transformers/pull/16762",),
    ),
)
