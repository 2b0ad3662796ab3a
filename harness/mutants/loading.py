"""Bugs of weight loading: biases, layers, what was not loaded. They work on any port. See also layouts.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import ml_dtypes
import numpy as np

from harness.architecture import Architecture
from harness.families import families
from harness.families.graph import kinds_in
from harness.families.parameters import made_with, parameter_of, rows_of
from harness.mutants.introduced import EVERY_PARAMETER, LAYER_PARAMETERS, kinds
from harness.mutants.mutant import FreeValue, Mutant, Read, WeightChange, github
from harness.mutants.needs import BEYOND_FLOAT16, STORED_WIDE, WIDE, Need, bias, has, layers, model_has, varied

NOT_LOADED = github(
    "huggingface/transformers/issues/12528", "huggingface/diffusers/issues/4840", "kekzl/imp/issues/1282"
)
NO_BIAS = github("sbryngelson/ANEForge/pull/253", "OminiX-ai/OminiX-MLX/pull/7", "ServiceNow/Fast-LLM/pull/398")
DENSE_SECOND = model_has(lambda arch: not arch.is_sparse(1), "the second layer has experts here")
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


def exchanged(**others: str) -> WeightChange:
    """Parameters of two kinds that are each loaded as the other's."""
    either = others | {partner: kind for kind, partner in others.items()}
    return loaded(either, lambda own, kind, arch: own(either[kind]))


def changed(
    *kinds_: str, by: Callable[[np.ndarray], np.ndarray], names: str = "weight", layer: int | None = None
) -> WeightChange:
    """Parameters of some kinds, changed on the way in."""
    return loaded(kinds_, lambda own, kind, arch: by(own(kind)), names, layer=layer)


def without_bias(name: str, *kinds_: str, seen: tuple[str, ...]) -> Mutant:
    """Projections whose biases are not loaded."""
    biases = changed(*kinds_, by=np.zeros_like, names="bias")
    product = f"{', '.join(kinds_)} = W x"
    return Mutant(name, product, f"{product} + b", kinds(*kinds_), biases, needs=bias(*kinds_), seen=seen)


def everything(change: Callable[[np.ndarray], np.ndarray]) -> WeightChange:
    return WeightChange(lambda name, read, arch: change(read(name)))


def layer_from(source: Callable[[int, int], int]) -> WeightChange:
    """Layers that are loaded from others: (index, number of layers) -> the index that is read."""

    def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
        layers = f"{families()[arch.family].layers}."
        if not name.startswith(layers):
            return read(name)
        index, _, inner = name.removeprefix(layers).partition(".")
        return read(f"{layers}{source(int(index), arch.layers)}.{inner}")

    return WeightChange(load)


def _from(value: float) -> WeightChange:
    """Every layer has the weights of one."""
    return layer_from(lambda index, count: round(value) % count)


def alike(source: Callable[[int, int], int]) -> Need:
    """A layer and the one that is loaded in its place have parameters of the same names."""
    return model_has(
        lambda arch: all(arch.is_sparse(i) == arch.is_sparse(source(i, arch.layers)) for i in range(arch.layers)),
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


layered = partial(Mutant, right="every layer has its own weights", introduced=LAYER_PARAMETERS)
not_loaded = partial(Mutant, right="it is loaded", layers=(1,), seen=NOT_LOADED)
stored = partial(Mutant, right="as the checkpoint stores them", introduced=EVERY_PARAMETER)
MUTANTS = (
    *(without_bias(f"{kind}_bias_missing", kind, seen=NO_BIAS) for kind in ("q", "k", "v")),
    without_bias("qkv_biases_missing", "q", "k", "v", seen=github("EricLBuehler/candle-vllm/pull/167")),
    Mutant(
        "norm_weights_swapped",
        wrong="the norms before attention and before the MLP have each other's weights",
        right="each has its own",
        introduced=kinds("attn_norm", "mlp_norm"),
        change=exchanged(attn_norm="mlp_norm"),
        needs=(has("attn_norm", "mlp_norm"), varied("attn_norm")),
        seen=github("NVIDIA-NeMo/Speech/issues/11951", "NVIDIA-NeMo/Megatron-Bridge/pull/4201"),
    ),
    layered(
        "layer_repeated",
        wrong="layer 2 has the weights of layer 1",
        change=layer_from(repeated),
        layers=(2,),
        needs=(layers(3), alike(repeated)),
        seen=github("AI-Hypercomputer/maxtext/issues/528"),
    ),
    layered(
        "layers_swapped",
        wrong="layers 1 and 2 have each other's weights",
        change=layer_from(swapped),
        layers=(1, 2),
        needs=(layers(3), alike(swapped)),
        seen=github("AI-Hypercomputer/maxtext/pull/3191"),
    ),
    layered(
        "layers_shifted",
        wrong="layer i has the weights of layer i + 1, and the first comes last",
        change=layer_from(shifted),
        free=FreeValue(
            "weights of layer",
            _from,
            tuple(range(128)),
            "a layer has the weights of another",
            counts=True,
            by_layer=True,
        ),
        needs=(layers(2), alike(shifted)),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4875"),
    ),
    layered(
        "layers_as_text",
        wrong="layers in the order of their names: 0, 1, 10, 11, 2",
        change=layer_from(lexicographic),
        needs=(layers(11), alike(lexicographic)),
        seen=github("AI-Hypercomputer/maxtext/pull/3191"),
    ),
    not_loaded(
        "norm_not_loaded",
        wrong="the weight of a norm stays at its initial 1",
        introduced=kinds("mlp_norm"),
        change=changed("mlp_norm", by=np.ones_like, layer=1),
        needs=(layers(2), varied("mlp_norm")),
    ),
    not_loaded(
        "up_not_loaded",
        wrong="up_proj of one layer stays at 0",
        introduced=kinds("up"),
        change=changed("up", by=np.zeros_like, layer=1),
        needs=(layers(2), DENSE_SECOND),
    ),
    stored(
        "weights_through_float16",
        wrong="parameters converted to float16 on the way in",
        change=everything(_through_float16),
        needs=(BEYOND_FLOAT16,),
        seen=github("google/saxml/issues/28", "facebookresearch/metaseq/pull/254"),
    ),
    stored(
        "weights_narrowed",
        wrong="parameters rounded to bfloat16 as they are loaded",
        change=everything(_narrowed),
        needs=(STORED_WIDE, WIDE),
        seen=github("huggingface/transformers/pull/16762"),
    ),
)
