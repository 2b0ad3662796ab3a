"""transformers' own forward pass with one real part: a layer, the embedding or the head. All else passes through.

So masks, rotation by kind of layer, caches and signatures are transformers', and the same however deep a model is:
what comes out of a real layer is, bit for bit, what it gives in the whole model. What is made around a layer may
be kept for the passes that follow (see `harness.record.around`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from harness.families import Family
from harness.record.around import Kept, entering
from harness.record.promote import Float64Mode


def arithmetic(precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a stream computes: float64 needs the casts in the model code lifted."""
    return Float64Mode() if precision == "float64" else contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class Inputs:
    """A case, or one call of it, on the device.

    Attributes:
        ids, positions: [batch, position].
        mask: [batch, slot], as many slots as are filled after the call; without a cache, [batch, position].
        cache: transformers' own, of this layer alone; None where the case is one call.
        nudged: RoPE's frequencies are one unit in the last place higher.
        kept: by the end of the call, what was made around a layer, for the passes that follow; None: nothing is.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    cache: DynamicCache | None = None
    nudged: bool = False
    kept: dict[int, Kept] | None = None

    def part(self, span: slice, cache: DynamicCache | None) -> Inputs:
        """The call that gets these tokens."""
        ids, positions, mask = self.ids[:, span], self.positions[:, span], self.mask[:, : span.stop]
        return Inputs(ids, positions, mask, cache, self.nudged, self.kept)

    def alone(self) -> Inputs:
        """Where no layer looks at a mask or a cache: of a mask of four dimensions transformers makes no other."""
        return replace(self, mask=self.mask.new_ones(1, 1, 1, 1), cache=None, kept=None)


class Passing(nn.Module):
    """A layer that hands on what it is given, with the attributes that the model's forward looks at."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_") and name != "training":
                setattr(self, name, value)

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        return hidden_states


class Nothing(nn.Module):
    """A table of positions that adds nothing."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros((), device=ids.device)


class Unturned(nn.Module):
    """A rotation that no layer looks at."""

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return hidden_states, hidden_states


class Shell:
    """The causal language model in which every layer passes through, at one precision.

    Args:
        skeleton: the model on the meta device.
        real: path -> module that takes the place of the one there.
        rotary: makes the module of RoPE, plain or nudged; None where no layer is real.
    """

    def __init__(
        self,
        skeleton: Any,
        family: Family,
        real: dict[str, nn.Module],
        rotary: Callable[[bool], nn.Module] | None,
    ) -> None:
        self._family = family
        layers = skeleton.get_submodule(family.layers)
        kept: dict[str, nn.Module] = {
            family.layers: nn.ModuleList([Passing(layer) for layer in layers]),
            family.model["embed"]: nn.Identity(),
            family.model["final_norm"]: nn.Identity(),
            family.model["logits"]: nn.Identity(),
        }
        if "positions" in family.model:
            kept[family.model["positions"]] = Nothing()
        self._model = _with(skeleton, kept | real)
        self._base = self._model.get_submodule(family.layers.rpartition(".")[0])
        self._rotary = cache(rotary) if rotary else None
        if rotary is None:
            self._base._modules["rotary_emb"] = Unturned()
        self._own = object()

    def run(self, inputs: Inputs, state: Tensor | None, index: int = 0, whole: bool = False) -> Tensor:
        """Run one call.

        Args:
            state: the hidden states that enter layer `index`; None: those that the embedding gives.
            whole: up to the logits, and not only up to the last layer.

        Returns:
            The logits, or the hidden states after the last layer, which hand on what is real before them.
        """
        key = (self._own, inputs.nudged)
        kept = None if inputs.kept is None else inputs.kept.setdefault(inputs.mask.shape[-1], Kept())
        around = None if kept is None else kept.of(key)
        if around is not None and state is not None:
            return around.call(self.layer(index), state, inputs.cache)
        if self._rotary:
            self._base._modules["rotary_emb"] = self._rotary(inputs.nudged)
        given = {"input_ids": inputs.ids} if state is None else {"inputs_embeds": state}
        forward = self._model if whole else self._base
        with contextlib.nullcontext() if state is None else entering(self.layer(index), state) as seen:
            result = forward(
                **given,
                attention_mask=inputs.mask,
                position_ids=inputs.positions,
                past_key_values=inputs.cache,
                use_cache=inputs.cache is not None,
            )
        value: Tensor = result.logits if whole else result.last_hidden_state
        if kept is not None and seen is not None and value is seen.made:  # so nothing comes after the layer
            kept.keep(key, seen.around(inputs.cache))
        return value

    def layer(self, index: int) -> nn.Module:
        """A layer: the real one, or what passes in its place."""
        return self._model.get_submodule(f"{self._family.layers}.{index}")


def _with(model: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """A shallow copy of a model, with other modules at some paths; the model itself stays as it is."""
    twin = _twin(model)
    for path, module in modules.items():
        original, parent = model, twin
        *above, name = path.split(".")
        for step in above:
            original, inner = original.get_submodule(step), parent.get_submodule(step)
            if inner is original:
                parent._modules[step] = inner = _twin(inner)
            parent = inner
        parent._modules[name] = module
    return twin


def _twin(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return twin
