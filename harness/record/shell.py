"""transformers' own forward pass with one real part: a layer, the embedding or the head. All else passes through.

So masks, rotation by kind of layer, caches and signatures are transformers', and the same however deep a model is:
what comes out of a real layer is, bit for bit, what it gives in the whole model.

A unit of work runs the same calls through the same layer many times: every draw, forward and in replay. What the
layer is given beside its hidden states, masks and rotation, is the same in all of them, so it is made once, by
transformers, and after that the layer is called alone. Made anew each time, it took longer than the layer of a
small model itself.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from harness.families import Family
from harness.record.promote import Float64Mode


def arithmetic(precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a stream computes: float64 needs the casts in the model code lifted."""
    return Float64Mode() if precision == "float64" else contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class Around:
    """One call of a layer, without its hidden states and its cache.

    Attributes:
        args, options: what transformers gave; where the hidden states stood there is None, as for the cache.
        first: whether the hidden states come first in `args`; else they have their name.
        cached: the names of the options that are the cache.
    """

    args: tuple[Any, ...]
    options: Mapping[str, Any]
    first: bool
    cached: tuple[str, ...]

    def call(self, layer: nn.Module, state: Tensor, cache: DynamicCache | None) -> Tensor:
        """The hidden states that a layer makes of these."""
        options = {**self.options, **dict.fromkeys(self.cached, cache)}
        made = layer(state, *self.args[1:], **options) if self.first else layer(**options, hidden_states=state)
        return only(made)


@dataclass(eq=False)
class Kept:
    """What is kept of one call of a case from pass to pass: the last only, for a mask can be large.

    Attributes:
        key: whose it is: of which layer at which precision, with which frequencies.
    """

    key: tuple[object, ...] = ()
    around: Around | None = None

    def of(self, key: tuple[object, ...]) -> Around | None:
        """What was kept under this key, if it was the last."""
        return self.around if self.key == key else None


@dataclass(eq=False)
class Seen:
    """One call of a layer, while it happens: what it was given, and the hidden states that it gave."""

    around: Around | None = None
    made: Tensor | None = None


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
        self, skeleton: Any, family: Family, real: dict[str, nn.Module], rotary: Callable[[bool], nn.Module] | None
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
            kept.key, kept.around = key, seen.around
        return value

    def layer(self, index: int) -> nn.Module:
        """A layer: the real one, or what passes in its place."""
        return self._model.get_submodule(f"{self._family.layers}.{index}")


@contextlib.contextmanager
def entering(layer: nn.Module, state: Tensor) -> Iterator[Seen]:
    """Whatever the model does to its embedding, this is what enters the layer, for the time of the block.

    Yields:
        What the layer is given, and gives, once it has run.
    """
    seen = Seen()

    def enter(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        cached = tuple(name for name, value in options.items() if isinstance(value, DynamicCache))
        held = {name: value for name, value in options.items() if name not in {"hidden_states", *cached}}
        seen.around = Around((None, *args[1:]), held, bool(args), cached)
        return ((state, *args[1:]), options) if args else (args, {**options, "hidden_states": state})

    def leave(module: nn.Module, args: Any, made: Any) -> None:
        seen.made = only(made)

    with layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave):
        yield seen


def only(made: Any) -> Tensor:
    """The hidden states among what a layer gives."""
    value: Tensor = made[0] if isinstance(made, tuple) else made
    return value


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
