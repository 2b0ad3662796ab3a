"""What a mutant is: one known porting bug, with its formulas, its sources, and where replay must find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Array

from harness.architecture import Architecture, Config
from harness.mutants.needs import Need

Read = Callable[[str], np.ndarray]
Kind = Literal["operation", "numerics", "weight", "config", "call"]


@dataclass(frozen=True, eq=False)
class OperationChange:
    """Operations of the built-in decoder that are replaced, by field of `harness.run.operations.Operations`.

    Attributes:
        unmasks: whether keys that the right mask hides may be seen: they must then be keys of the input, and not
            the padding of whatever runs it.
    """

    kind: ClassVar[Kind] = "operation"
    replaced: Mapping[str, Callable[..., Any]]
    unmasks: bool = False


@dataclass(frozen=True, eq=False)
class NumericsChange(OperationChange):
    """The right formula with another arithmetic: what accelerators and narrow dtypes do."""

    kind: ClassVar[Kind] = "numerics"


@dataclass(frozen=True, eq=False)
class WeightChange:
    """Parameters that are loaded wrongly.

    Attributes:
        load: (name, read, architecture) -> the tensor that is loaded under that name, where `read(name)` gives a
            parameter as it is stored.
    """

    kind: ClassVar[Kind] = "weight"
    load: Callable[[str, Read, Architecture], np.ndarray]


@dataclass(frozen=True, eq=False)
class ConfigChange:
    """A config that is read wrongly: from the right config, the fields that differ."""

    kind: ClassVar[Kind] = "config"
    fields: Callable[[Config], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class CallChange:
    """A port that is right and is called wrongly, by whatever drives it through prefill and decode.

    Attributes:
        positions: (positions, tokens before this call, tokens of the first call) -> the positions it is given.
    """

    kind: ClassVar[Kind] = "call"
    positions: Callable[[Array, int, int], Array]


Change = OperationChange | WeightChange | ConfigChange | CallChange


@dataclass(frozen=True, eq=False)
class Mutant:
    """A known porting bug.

    Attributes:
        id: stable: it is never given to another bug.
        wrong, right: what a port computes, and what it has to compute.
        introduced: the kinds of taps at which replay must find it, and no others.
        change: how it is planted.
        layers: the layers in which it is, counted from the end where negative; None means wherever it applies.
        needs: what the inputs, the checkpoint and the architecture must have for it to show.
        at_logits: why the logits of a prompt cannot show it, where they cannot.
        cached: whether it is run on cases with a KV cache, and on those alone: a prompt cannot show it.
        seen: threads and pull requests that report this root cause.
    """

    id: str
    wrong: str
    right: str
    introduced: frozenset[str]
    change: Change
    layers: tuple[int, ...] | None = None
    needs: tuple[Need, ...] = ()
    at_logits: str = ""
    cached: bool = False
    seen: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def kind(self) -> Kind:
        return self.change.kind

    def in_layers(self, count: int) -> tuple[int, ...]:
        """The layers of a model with `count` of them in which the mutant is."""
        return tuple(range(count)) if self.layers is None else tuple(i % count for i in self.layers)


def kinds(*names: str) -> frozenset[str]:
    """The kinds of taps at which a mutant is introduced."""
    return frozenset(names)


PROJECTIONS = kinds("q", "k", "v", "attn_out", "gate", "up", "mlp_out")
EVERY_MATMUL = PROJECTIONS | {"logits"}
LAYER_PARAMETERS = PROJECTIONS | {"attn_norm", "mlp_norm"}
