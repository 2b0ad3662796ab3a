"""Rows of single layers as one row for all, with `{i}`: the numbers in them grow with the layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.run.proposing.places import Written

NUMBER = re.compile(r"\d+")


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
    every = patterns(options)
    single = [alone(x) for x in options if x.iteration is None]
    left = {x.layer for x in options}
    layouts: set[str | None] = set()
    for pool in (every, single):
        while left:
            fitting = [x for x in pool if x.layers & left and (not layouts or x.layout in layouts)]
            if not fitting:
                break
            best = min(fitting, key=lambda x: (-len(x.layers & left), x.rank))
            if pool is every and layouts:
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
    return [found for layers in groups.values() for found in _fits(layers)]


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
                next((one for one in layers[layer] if _numbers(one) == wanted[layer]), None)
                for layer in sorted(layers)
            ]
            fitting = tuple(one for one in chosen if one is not None)
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
