"""What a mutant is: one known porting bug, with its formulas, its sources, and where replay must find it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Array

from harness.architecture import Architecture, Config
from harness.mutants.needs import Need
from harness.run.operations import Operations

Read = Callable[[str], np.ndarray]
Kind = Literal["operation", "numerics", "weight", "config", "option", "call"]


@dataclass(frozen=True, eq=False)
class Around:
    """Something that is done around an operation, whatever formula a model has for it: right one -> wrong one."""

    make: Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Among:
    """Something that is made of an operation and of others of the same decoder: right ones -> wrong one."""

    make: Callable[[Operations], Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class OperationChange:
    """Operations of the built-in decoder that are replaced, by field of `harness.run.operations.Operations`.

    Attributes:
        replaced: another formula, which is a variant of the usual one alone, or `Around`, or `Among`.
        unmasks: whether keys that the right mask hides may be seen: they must then be keys of the input, and not
            the padding of whatever runs it.
    """

    kind: ClassVar[Kind] = "operation"
    replaced: Mapping[str, Callable[..., Any] | Around | Among]
    unmasks: bool = False

    def formulas(self) -> dict[str, Callable[..., Any]]:
        """Those that take the place of an operation, whatever it is."""
        return {name: made for name, made in self.replaced.items() if not isinstance(made, Around | Among)}


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
class OptionChange:
    """A decoder with other options: what one family does, done by a model of another.

    Attributes:
        options: from the right architecture, another one with the same parameters.
        lacking: why it changes nothing where it gives the same architecture.
    """

    kind: ClassVar[Kind] = "option"
    options: Callable[[Architecture], Architecture]
    lacking: str


@dataclass(frozen=True, eq=False)
class CallChange:
    """A port that is right and is called wrongly, by whatever drives it through prefill and decode.

    Attributes:
        positions: (positions, tokens before this call, tokens of the first call) -> the positions it is given.
    """

    kind: ClassVar[Kind] = "call"
    positions: Callable[[Array, int, int], Array]


Change = OperationChange | WeightChange | ConfigChange | OptionChange | CallChange


@dataclass(frozen=True, eq=False)
class FreeValue:
    """The value that a mutant leaves open: a port rarely has exactly the wrong constant that the catalogue has.

    Attributes:
        symbol: what it is called.
        change: value -> what is planted.
        tried: values to try; a fit starts at the best of them.
        wrong: what a port computes with a value `{}`; empty where the values only count forms of one bug.
        counts: only these values make sense.
        by_layer: every layer has a value of its own.
        forms: what the values stand for, where they only count forms.
    """

    symbol: str
    change: Callable[[float], Change]
    tried: tuple[float, ...]
    wrong: str = ""
    counts: bool = False
    by_layer: bool = False
    forms: tuple[str, ...] = ()

    @property
    def around(self) -> bool:
        """Whether it goes around an operation, and so together with another bug of that operation."""
        change = self.change(self.tried[0])
        return isinstance(change, OperationChange) and not change.formulas()

    def words(self, value: float) -> str:
        return self.forms[round(value)] if self.forms else f"{self.symbol} {value:.6g}"


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
        free: the same bug with other values.
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
    free: FreeValue | None = field(default=None, kw_only=True)
    seen: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def kind(self) -> Kind:
        return self.change.kind

    def in_layers(self, count: int) -> tuple[int, ...]:
        """The layers of a model with `count` of them in which the mutant is."""
        return tuple(range(count)) if self.layers is None else tuple(i % count for i in self.layers)


def github(*threads: str) -> tuple[str, ...]:
    """The addresses of issues and pull requests at GitHub: `owner/repository/pull/number`."""
    return tuple(f"https://github.com/{thread}" for thread in threads)


def planted(ops: Operations, changes: Iterable[Change]) -> Operations:
    """These operations with changes planted: first other formulas, then what is done around an operation."""
    of_operations = [change for change in changes if isinstance(change, OperationChange)]
    for change in of_operations:
        ops = replace(ops, **change.formulas())
    for change in of_operations:
        wrong: dict[str, Callable[..., Any]] = {}
        for name, made in change.replaced.items():
            if isinstance(made, Around | Among):
                wrong[name] = made.make(ops) if isinstance(made, Among) else made.make(getattr(ops, name))
        ops = replace(ops, **wrong)
    return ops


def with_options(arch: Architecture, changes: Iterable[Change]) -> Architecture:
    """This architecture with the options of the changes."""
    for change in changes:
        arch = change.options(arch) if isinstance(change, OptionChange) else arch
    return arch
