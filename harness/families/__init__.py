"""The families of models that are known: each in a file here, found by being here.

Such a file is data, a `Family`: how a config of it is read, which fields of it are harmless, where transformers
has what the taps are called after. Everything else asks for the family of a config, and names none.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Self

from harness.families.options import Architecture
from harness.fields import Config

_NAME = re.compile(r'^        model_type="(\w+)"|Family\(model_type="(\w+)"', re.MULTILINE)

# The module of transformers, within a layer, whose output is a tap of that kind, and which holds the parameters of
# that operation. Kinds of one path share it: one matrix makes them all.
LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
}
# Those of them that a layer of experts has as well.
ATTENTION: Mapping[str, str] = {kind: path for kind, path in LAYER.items() if not path.startswith("mlp.")}
HEAD_NORMS: Mapping[str, str] = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
# In layers that have experts, in place of the MLP's. `experts_out` has all experts' parameters.
EXPERTS: Mapping[str, str] = {
    "router_logits": "mlp.gate",
    "routing": "mlp.gate",
    "experts_out": "mlp.experts",
    "mlp_out": "mlp",
}
CORRECTED: Mapping[str, str] = {"router_scores": "mlp.gate"}
SHARED: Mapping[str, str] = {
    "shared_gate": "mlp.shared_experts.gate_proj",
    "shared_up": "mlp.shared_experts.up_proj",
    "shared_out": "mlp.shared_experts.down_proj",
}
# How files have each expert's matrices: by the name of transformers' one for all, what its outputs are made of.
EACH: Mapping[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight"),
    "mlp.experts.down_proj": ("mlp.experts.{}.down_proj.weight",),
}
# What configs of a mixture say of its training, which changes nothing.
TRAINED = frozenset({"output_router_logits", "router_aux_loss_coef"})
FURTHER, MOST_FURTHER = ("num_nextn_predict_layers", "num_mtp_layers"), 16  # layers, by either name
# And outside the layers, in the causal language model.
MODEL: Mapping[str, str] = {"embed": "model.embed_tokens", "final_norm": "model.norm", "logits": "lm_head"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models, under the name that a config gives it.

    Attributes:
        model_type: that name.
        classes: what `architectures` of a config may say.
        read: the architecture that a config describes. What it does not look at has to be known here.
        layer: the paths of modules within a layer, by kind of tap.
        undivided: those that differ where queries have no latent.
        sparse: those within a layer that has experts, where they are not what `layer` says.
        each: by what transformers has of all experts in one parameter, what files have of each, by its number.
        interleaved: of an expert's gates and ups, each gate has its up beside it.
        experts_transposed: matrices of experts are [input, output].
        model: the paths outside the layers, and `positions` where positions are learned.
        layers: the path of the list of layers.
        by_head: a shared matrix of q, k and v has them head by head, and not one after the other.
        ropes_by_type: transformers 5 has a table for each type of layer in `rope_parameters`.
        heads_first: the norms of queries and keys give [batch, head, position, head_dim].
        stored_transposed: matrices are stored as [input, output].
        names: of fields of the config, by the name that others give them.
        stored: patterns of parameters' names in files, and what stands for a match in transformers' names; None
            for a tensor that is no parameter.
        quantised: the methods by which weights are quantised in published checkpoints that are read here.
        harmless: fields that change nothing, whatever they say, besides those that never do.
        only: fields that transformers does not look at and other stacks do: the value that they have to have.
        activation: the path of the module, or function, that is the activation.
    """

    model_type: str
    classes: tuple[str, ...]
    read: Callable[[Config], Architecture]
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    undivided: Mapping[str, str] = field(default_factory=dict)
    sparse: Mapping[str, str] = field(default_factory=dict)
    each: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: bool = False
    experts_transposed: bool = False
    model: Mapping[str, str] = field(default_factory=lambda: MODEL)
    layers: str = "model.layers"
    by_head: bool = False
    heads_first: bool = False
    ropes_by_type: bool = False
    stored_transposed: bool = False
    activation: str = "mlp.act_fn"
    names: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str | None] = field(default_factory=dict)
    quantised: tuple[str, ...] = ()
    harmless: frozenset[str] = frozenset()
    only: Mapping[str, object] = field(default_factory=dict)

    def of(self, arch: Architecture) -> Self:
        """The family with the paths that a model of it has."""
        if not self.undivided or arch.mla is None or arch.mla.q_rank is not None:
            return self
        return replace(self, layer={**self.layer, **self.undivided})

    def paths(self, sparse: bool) -> Mapping[str, str]:
        """The paths within a layer, with experts or without."""
        return {**self.layer, **self.sparse} if sparse else self.layer

    def beyond(self, config: Config) -> dict[str, None]:
        """Patterns of the layers that predict further tokens: they follow the model's own, which does not run
        them."""
        layers, count = config.get("num_hidden_layers"), next(filter(None, map(config.get, FURTHER)), 0)
        if not isinstance(layers, int) or not isinstance(count, int):
            return {}
        last = layers + min(count, MOST_FURTHER)
        return {rf"^{re.escape(self.layers)}\.{index}\.": None for index in range(layers, last)}


@cache
def families() -> dict[str, Family]:
    """Every family by its `model_type`, in alphabetical order: what the modules here call FAMILIES."""
    unsorted: list[Family] = []
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        unsorted += getattr(importlib.import_module(module.name), "FAMILIES", ())
    return {family.model_type: family for family in sorted(unsorted, key=lambda f: f.model_type)}


@cache
def family_named(model_type: str) -> Family:
    """One family; of all their files its own is imported.

    Raises:
        KeyError: there is none of that name.
    """
    module = _modules().get(model_type)
    if module is None:
        return families()[model_type]
    own: tuple[Family, ...] = importlib.import_module(f"{__name__}.{module}").FAMILIES
    return next(family for family in own if family.model_type == model_type)


def names() -> list[str]:
    """The names of all families, from the text of their files: a help page imports none of them, nor numpy."""
    return sorted(_modules())


@cache
def _modules() -> dict[str, str]:
    """By family, the module that has it."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    texts = ((file.stem, file.read_text(encoding="utf-8")) for file in files)
    return {match[1] or match[2]: stem for stem, text in texts for match in _NAME.finditer(text)}
