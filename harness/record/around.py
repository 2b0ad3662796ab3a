"""What transformers makes around a layer: masks and rotation, of which none depends on the hidden states.

A unit of work runs the same calls through the same layer many times: every draw, forward and in replay. What the
layer is given beside its hidden states is the same in all of them, so it is made once, by transformers, and after
that the layer is called alone. Made anew each time, it took longer than the layer of a small model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache


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

    def keep(self, key: tuple[object, ...], around: Around) -> None:
        """Hold this, and let go of what was held before."""
        self.key, self.around = key, around


@dataclass(eq=False)
class Seen:
    """One call of a layer, while it happens.

    Attributes:
        around: what it was given.
        made: the hidden states that it gave.
    """

    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    made: Tensor | None = None

    def around(self, cache: DynamicCache | None) -> Around:
        """What the layer was given beside hidden states and cache."""
        cached = tuple(name for name, value in self.options.items() if cache is not None and value is cache)
        options = {name: value for name, value in self.options.items() if name not in {"hidden_states", *cached}}
        return Around((None, *self.args[1:]), options, bool(self.args), cached)


@contextmanager
def entering(layer: nn.Module, state: Tensor) -> Iterator[Seen]:
    """Whatever the model does to its embedding, this is what enters the layer, for the time of the block.

    Yields:
        What the layer is given, and gives, once it has run.
    """
    seen = Seen()

    def enter(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        seen.args, seen.options = args, dict(options)
        return ((state, *args[1:]), options) if args else (args, {**options, "hidden_states": state})

    def leave(module: nn.Module, args: Any, made: Any) -> None:
        seen.made = only(made)

    handles = layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def only(made: Any) -> Tensor:
    """The hidden states among what a layer gives."""
    value: Tensor = made[0] if isinstance(made, tuple) else made
    return value
