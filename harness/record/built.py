"""What transformers built from a config, in our own words: two readers of one file have to agree.

A field that transformers reads elsewhere, fills in, or passes over would otherwise be recorded as if it were what
the family read, and every port that follows the config would be accused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from harness.errors import CheckpointError
from harness.families import Family
from harness.families.frequencies import frequencies
from harness.families.options import Architecture
from harness.families.parameters import experts_of, norms, shapes
from harness.families.reading import ACTIVATIONS
from harness.families.windows import SLIDING

Fact = tuple[str, object, object]  # what it is, as it was read, as it was built
PROBES = np.linspace(-6, 6, 25)
NONE = "no such parameter"


def refuse_disagreement(family: Family, arch: Architecture, model: Any, rotary: Any) -> None:
    """Refuse a config that transformers reads differently than the checking side does.

    Args:
        model: the causal language model that transformers built.
        rotary: its rotary embedding, with frequencies made in float64; None where it has none.

    Raises:
        CheckpointError: naming the first fact in which the two differ.
    """
    layers = list(model.get_submodule(family.layers))
    if len(layers) != arch.layers:
        raise _disagreement("layers", arch.layers, len(layers))
    for facts in (
        _shapes(family, arch, model),
        _arithmetic(family, arch, model, layers),
        _rope(arch, model, rotary),
    ):
        for name, ours, theirs in facts:
            if ours != theirs:
                raise _disagreement(name, ours, theirs)


def _shapes(family: Family, arch: Architecture, model: Any) -> Iterator[Fact]:
    ours = shapes(family, arch)
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in dict.fromkeys((*theirs, *ours)):
        yield f"the shape of {name}", ours.get(name, NONE), theirs.get(name, NONE)


def _arithmetic(family: Family, arch: Architecture, model: Any, layers: list[Any]) -> Iterator[Fact]:
    yield "tied_head", arch.tied_head, model.config.tie_word_embeddings
    yield "eps of final_norm", arch.norm.eps, _eps(model.get_submodule(family.model["final_norm"]))
    family = family.of(arch)
    attention = family.layer["q"].rpartition(".")[0]
    for index, layer in enumerate(layers):
        paths = family.paths(arch.is_sparse(index))
        for kind, norm, _ in norms(arch, arch.is_sparse(index)):
            yield f"eps of layers.{index}.{kind}", norm.eps, _eps(layer.get_submodule(paths[kind]))
        module = layer.get_submodule(attention)
        yield f"the scale of the scores of layers.{index}", arch.scale, module.scaling
        yield f"the window of layers.{index}", arch.windows[index], _window(model.config, module, index)
        if arch.is_sparse(index):
            yield from _experts(arch, index, layer.get_submodule(paths["routing"]))
            experts = layer.get_submodule(paths["experts_out"])
            if experts_of(arch).clamp is not None:
                clamp = experts.alpha, experts.limit
                yield f"alpha and limit of the experts of layers.{index}", experts_of(arch).clamp, clamp
                continue
            activation = experts.act_fn
        else:
            activation = layer.get_submodule(family.activation)
        with torch.inference_mode():
            theirs = activation(torch.tensor(PROBES)).numpy()
        same = np.allclose(theirs, ACTIVATIONS[arch.activation](PROBES), rtol=1e-12, atol=1e-13)
        name = arch.activation if same else type(activation).__name__
        yield f"the activation of layers.{index}", arch.activation, name


def _experts(arch: Architecture, index: int, router: Any) -> Iterator[Fact]:
    """What a router says of itself; what it does not say is its class's, and the same for every config."""
    ours = experts_of(arch)
    facts = {
        "top_k": ours.chosen,
        "num_experts": ours.count,
        "routed_scaling_factor": ours.factor,
        "num_group": ours.groups,
        "topk_group": ours.chosen_groups,
        "norm_topk_prob": ours.renormed is not None,
    }
    # DeepSeek-V2's has groups also where it does not look at them.
    unread = ("num_group", "topk_group") if getattr(router, "topk_method", None) == "greedy" else ()
    for name, fact in facts.items():
        if hasattr(router, name) and name not in unread:
            yield f"{name} of the router of layers.{index}", fact, getattr(router, name)


def _rope(arch: Architecture, model: Any, rotary: Any) -> Iterator[Fact]:
    """Frequencies and the factor on cosine and sine, of every kind of layer that has some of its own."""
    types = getattr(model.config, "layer_types", None) or [""] * arch.layers
    for index, rope in enumerate(arch.ropes):
        if rope is None:
            continue
        prefix = f"{types[index]}_" if hasattr(rotary, f"{types[index]}_inv_freq") else ""
        expected, factor = frequencies(rope)
        theirs = getattr(rotary, f"{prefix}inv_freq").cpu().numpy()
        if theirs.shape != expected.shape or not np.allclose(theirs, expected, rtol=1e-12, atol=0):
            yield f"RoPE's frequencies of layers.{index}", expected[:8].tolist(), theirs[:8].tolist()
        scaling = float(getattr(rotary, f"{prefix}attention_scaling"))
        yield f"RoPE's factor of layers.{index}", factor, factor if np.isclose(factor, scaling, 1e-12) else scaling


def _window(config: Any, attention: Any, index: int) -> int | None:
    """What hides keys in a layer: the mask of its kind, where layers have kinds, and else that of all."""
    types = getattr(config, "layer_types", None)
    if types is not None and types[index] != SLIDING:
        return None
    width: int | None = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    return width


def _eps(norm: Any) -> object:
    return next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), None)


def _disagreement(fact: str, ours: object, theirs: object) -> CheckpointError:
    problem = "transformers reads this config differently than the checking side does"
    hint = "write config.json in one dialect: AutoConfig.from_pretrained(DIR).save_pretrained(NEW)"
    found = f"{theirs}, in what transformers built"
    return CheckpointError(problem, f"config.json: {fact}", ours, found, hint=hint)
