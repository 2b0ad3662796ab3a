"""How a place can be written as a row: what has to be running, and which of its calls it is.

Rows of single layers are one row for all, with `{i}`, where the numbers in them grow with the layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.run.adapters.table import is_function, is_variable
from harness.run.proposing.watched import Mark, is_own

NUMBER = re.compile(r"\d+")
# Primitives that compute nothing. Which of them a program has depends on its shapes and dtypes.
MOVES = frozenset({
    "broadcast_in_dim", "copy", "dynamic_slice", "optimization_barrier", "pad", "reshape", "rev",
    "sharding_constraint", "slice", "split", "squeeze", "stop_gradient", "transpose",
})  # fmt: skip
CASTS = frozenset({"convert_element_type", "reduce_precision"})


@dataclass(frozen=True)
class Written:
    """One way to write a place.

    Attributes:
        call: which call; None where there is one.
        last: whether it is the last of them.
        in_method: whether the scope is a method of a sub-module.
        private: whether it is itself such a method, and has a name that says that it is nobody else's.
    """

    mark: Mark
    call: int | None
    last: bool
    scope: str | None
    in_method: bool = False
    private: bool = False

    @property
    def path(self) -> str:
        return self.mark.site.path

    @property
    def field(self) -> str:
        return self.mark.site.field

    @property
    def sort(self) -> tuple[int, ...]:
        """Sub-modules come first, then functions of the model, then others; results before arguments.

        Of variables, which come last, what an operation computes comes before what one is given, and both before
        what is only moved. Casts are last: at another precision there are others.
        """
        if is_variable(self.path):
            primitive = self.path.rpartition("/")[2]
            moved = 4 if primitive in CASTS else 2 * int(primitive in MOVES)
            return 3, int(self.mark.is_other), moved + int(self.field.startswith("("))
        kind = 0 if not is_function(self.path) else 1 if is_own(self.path.partition(":")[0]) else 2
        return kind, int(self.field.startswith("("))

    @property
    def length(self) -> tuple[int, ...]:
        """One call, short paths, and of functions those while the innermost sub-module runs."""
        of_module = self.scope is not None and not is_function(self.scope) and not self.in_method
        if is_variable(self.path):
            depth = self.scope.count(".") + 1 if self.scope else 0
            return int(self.scope is not None and not of_module), int(self.call is not None), -depth
        if is_function(self.path):
            inside = -self.scope.count(".") - 1 if self.scope and of_module else int(self.scope is not None)
            return int(self.call is not None), 0, inside
        return int(self.private), int(self.call is not None), self.path.count("."), int(self.scope is not None)

    def alike(self, kind: str) -> int:
        """How many of the words of a kind of tap are in its own name."""
        own = re.split(r"[^A-Za-z0-9]+", f"{re.split(r'[.:]', self.path)[-1]}{self.field}".lower())
        return sum(word in own for word in kind.split("_"))

    def __str__(self) -> str:
        number = "" if self.call is None else f"#{-1 if self.last and self.call else self.call}"
        return f"{self.path}{number}{self.field}" + (f" in {self.scope}" if self.scope else "")


class Places:
    """All places of a program.

    Args:
        methods: the paths of those that are no sub-modules.
    """

    def __init__(self, marks: Sequence[Mark], methods: frozenset[str]) -> None:
        self._methods = methods
        self._calls: dict[tuple[str, str, int, str | None], list[int]] = defaultdict(list)
        for mark in marks:
            for scope in (None, *dict.fromkeys(mark.site.inside)):
                self._calls[mark.site.path, mark.site.field, mark.loop, scope].append(mark.index)

    def written(self, mark: Mark) -> Iterator[Written]:
        """Every way to write a place; of sub-modules that are called once there is one."""
        path = mark.site.path
        private = path in self._methods and path.rpartition(".")[2].startswith("_")
        for scope in (None, *dict.fromkeys(mark.site.inside)):
            calls = self._calls[mark.site.path, mark.site.field, mark.loop, scope]
            number = calls.index(mark.index)
            once = len(calls) == 1
            yield Written(
                mark, None if once else number, number == len(calls) - 1, scope, scope in self._methods, private
            )
            if once and scope is None and not is_function(path) and not is_variable(path):
                return


@dataclass(frozen=True)
class Option:
    """One way to write the place of one tap.

    Attributes:
        kind: of the tap.
        layer: of the tap; None outside the layers.
        iteration: of the scan that the place is in.
    """

    written: Written
    layout: str | None
    kind: str
    layer: int | None
    iteration: int | None

    @property
    def rank(self) -> tuple[int, ...]:
        """Plainer ones are lower, and those whose names say what they are."""
        own, layout = self.written, int(self.layout is not None)
        return *own.sort, -own.alike(self.kind), layout, *own.length, len(str(own)), own.mark.index


@dataclass(frozen=True)
class Pattern:
    """A row, and the options that it stands for."""

    left: str
    layout: str | None
    options: tuple[Option, ...]

    @property
    def layers(self) -> frozenset[int | None]:
        return frozenset(option.layer for option in self.options)

    @property
    def rank(self) -> tuple[int, ...]:
        return self.options[0].rank


def chosen(options: Sequence[Option]) -> Iterator[Pattern]:
    """A row for as many layers as one has, and rows for the others."""
    if not options:
        return
    several = patterns(options)
    single = [alone(x) for x in options if x.iteration is None]
    left = {x.layer for x in options}
    layouts: set[str | None] = set()
    for pool in (several, single):
        while left:
            fitting = [x for x in pool if x.layers & left and (not layouts or x.layout in layouts)]
            if not fitting:
                break
            best = min(fitting, key=lambda x: (-len(x.layers & left), x.rank))
            if pool is several and layouts:
                break  # one row with {i}, and others by layer
            layouts.add(best.layout)
            left -= best.layers
            yield best


def alone(option: Option) -> Pattern:
    """A row of one layer, or of a tap outside of the layers."""
    return Pattern(str(option.written), option.layout, (option,))


def patterns(options: Iterable[Option]) -> list[Pattern]:
    """Every row for several layers of one kind of tap."""
    groups: dict[tuple[object, ...], dict[int, list[Option]]] = defaultdict(lambda: defaultdict(list))
    for option in options:
        if option.layer is not None and (option.iteration is None or option.iteration == option.layer):
            groups[_template(option)][option.layer].append(option)
    return [pattern for layers in groups.values() for pattern in _fits(layers)]


def _fits(layers: Mapping[int, list[Option]]) -> Iterable[Pattern]:
    first, *others = sorted(layers)
    if not others:
        return
    for start in layers[first]:
        for second in layers[others[0]]:
            steps = [b - a for a, b in zip(_numbers(start), _numbers(second), strict=True)]
            if any(step < 0 or step % (others[0] - first) for step in steps):
                continue
            slopes = [step // (others[0] - first) for step in steps]
            at = [number - slope * first for number, slope in zip(_numbers(start), slopes, strict=True)]
            wanted = {layer: [b + a * layer for a, b in zip(slopes, at, strict=True)] for layer in layers}
            chosen = [
                next((option for option in layers[layer] if _numbers(option) == wanted[layer]), None)
                for layer in sorted(layers)
            ]
            fitting = tuple(option for option in chosen if option is not None)
            if (
                len(fitting) > 1
                and all(number >= 0 for number in at)
                and (any(slopes) or start.iteration is not None)
            ):
                yield Pattern(_written_out(start.written, slopes, at), start.layout, fitting)


def _parts(written: Written) -> tuple[str, str, str]:
    """What numbers of layers can stand in, with the field between."""
    call = "" if written.call is None else f"#{written.call}"
    return f"{written.path}{call}", written.field, f" in {written.scope}" if written.scope else ""


def _template(option: Option) -> tuple[object, ...]:
    place, field, scope = _parts(option.written)
    texts = NUMBER.sub("0", place), field, NUMBER.sub("0", scope)
    return (*texts, option.layout, option.written.mark.loop, option.iteration is None)


def _numbers(option: Option) -> list[int]:
    place, _, scope = _parts(option.written)
    return [int(number) for number in NUMBER.findall(place + scope)]


def _written_out(written: Written, slopes: list[int], at: list[int]) -> str:
    rest = list(zip(slopes, at, strict=True))

    def number(_: re.Match[str]) -> str:
        slope, offset = rest.pop(0)
        if not slope:
            return str(offset)
        return f"{{{'' if slope == 1 else slope}i{f'+{offset}' if offset else ''}}}"

    place, field, scope = _parts(written)
    return f"{NUMBER.sub(number, place)}{field}{NUMBER.sub(number, scope)}"
