"""The rows of a proposed table: for every kind of tap the plainest places of its variables."""

from __future__ import annotations

import linecache
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.layout import layer_of
from harness.run.adapters.table import To, is_variable
from harness.run.proposing.flat import Flat, Place, Step
from harness.run.proposing.matching import Matcher
from harness.run.proposing.places import Option, Pattern, Places, chosen
from harness.run.proposing.standing import LOGITS, Standing, Traced
from harness.run.proposing.watched import Shapes
from harness.taps import kind_of, name_of, recorded_inputs


@dataclass(frozen=True)
class ProposedRow:
    """A row of the table.

    Attributes:
        noise: the largest error of the taps that it equals, in PyTorch's own, and the limit there.
        wrong: the taps that its value does not equal: it stands in their place by data flow.
        far: by how much it does not, as a share of the tap's size.
        also: other kinds whose golden values are the same, so that it could as well be those.
        place: of a variable, its shape and the line that computes it.
        told: of what is wrong, what else data flow says.
    """

    left: str
    tap: str
    layout: str | None
    noise: tuple[float, float] | None
    wrong: tuple[str, ...] = ()
    far: float = 0.0
    also: tuple[str, ...] = ()
    place: str = ""
    told: str = ""

    @property
    def target(self) -> str | To:
        return self.tap if self.layout is None else To(self.tap, self.layout)


@dataclass(frozen=True)
class Absent:
    """A tap whose operation the program does not have: what it should be computed from is read in its place.

    Attributes:
        place: the line that reads it.
    """

    tap: str
    instead: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Module:
    """A sub-module or function that was called: its path, what it was given and what it returned."""

    path: str
    values: tuple[tuple[str, str], ...]  # field, and dtype[shape]


class Rows:
    """Rows for every kind of tap, the plainest place of each from which all goes on.

    Args:
        whole: what calls return of a whole prompt.
        cached: the same of calls through a cache, where there is one.

    Attributes:
        covered: the taps that have a row.
    """

    def __init__(
        self, flat: Flat, known: Traced, matcher: Matcher, places: Places, whole: Shapes, cached: Shapes
    ) -> None:
        self._flat, self._known, self._matcher, self._places = flat, known, matcher, places
        self._whole, self._cached = whole, cached
        self._readers = flat.readers()
        self._inputs = recorded_inputs(matcher.graph, {*matcher.taps, LOGITS})
        self._kinds = list(dict.fromkeys(map(kind_of, matcher.taps)))
        self._at = {place: x for x, places in flat.places.items() for place in places}
        self.covered: set[str] = set()

    def __call__(self) -> tuple[ProposedRow, ...]:
        options: dict[str, list[Option]] = defaultdict(list)
        for tap in self._matcher.taps:
            for variable, layout in self._variables(tap):
                for mark, iteration in self._flat.places.get(variable, ()):
                    for written in self._places.written(mark):
                        option = Option(written, layout, kind_of(tap), layer_of(tap), iteration)
                        options[option.kind].append(option)
        return tuple(self._row(kind, pattern) for kind, pattern in self._plainest(options))

    def _plainest(self, options: Mapping[str, list[Option]]) -> Iterator[tuple[str, Pattern]]:
        """For every kind of tap, in their order, its plainest places; no place is that of two."""
        used: set[Place] = set()
        for kind in self._kinds:
            free = [x for x in options.get(kind, ()) if (x.written.mark, x.iteration) not in used]
            for pattern in chosen(free):
                used |= {(x.written.mark, x.iteration) for x in pattern.options}
                yield kind, pattern

    def absent(self) -> Iterator[Absent]:
        """The taps whose operation is not there."""
        for tap, held in self._known.standing.items():
            if held.is_input:
                yield Absent(tap, held.computed_from, _line(self._flat.steps[min(held.edges)]))

    def _variables(self, tap: str) -> list[tuple[int, str | None]]:
        """The variables in whose place the golden reaches all that reads the tap, with their layouts."""
        standing = self._known.standing.get(tap)
        if standing is not None:
            return [] if standing.is_input else [(standing.variable, standing.layout)]
        layouts = {variable: match.layout for variable, match in self._known.matched.get(tap, ())}
        covering = [(x, layout) for x, layout in layouts.items() if self._covers(x, layouts)]
        return covering or list(layouts.items())

    def _covers(self, variable: int, same: Mapping[int, object]) -> bool:
        """Whether all that reads one of several equal variables reads what is made of this one."""
        reached = {variable}
        for other in sorted(same, key=self._flat.made_at.__getitem__):
            if reached & set(self._flat.step_of(other).inputs):
                reached.add(other)
        return all(
            set(self._flat.steps[at].outputs) & set(same)
            for other in same
            if other not in reached
            for at in self._readers.get(other, ())
        )

    def _row(self, kind: str, pattern: Pattern) -> ProposedRow:
        taps = [_tap_of(kind, option.layer) for option in pattern.options]
        standing = {tap: self._known.standing[tap] for tap in taps if tap in self._known.standing}
        multiples = [
            max((match.multiple, match.allowed) for _, match in self._known.matched[tap])
            for tap in taps
            if tap not in standing
        ]
        variables = [
            self._at[option.written.mark, option.iteration]
            for option, tap in zip(pattern.options, taps, strict=True)
            if tap in standing or is_variable(option.written.path)
        ]
        also = {kind_of(alike) for tap in taps for alike in self._known.also.get(tap, ())} - {kind}
        self.covered.update(taps)
        return ProposedRow(
            self._left(pattern),
            _tap_of(kind, "{i}") if len(taps) > 1 else taps[0],
            pattern.layout,
            max(multiples, default=None),
            tuple(standing),
            max((held.far for held in standing.values()), default=0.0),
            tuple(alike for alike in self._kinds if alike in also),
            self._place(variables[0]) if variables else "",
            self._told(*next(iter(standing.items()))) if standing else "",
        )

    def _left(self, pattern: Pattern) -> str:
        """A left side, with `[0]` or `[-1]` where a call through a cache returns more than x."""
        written = pattern.options[0].written
        path, shape = written.path, self._whole.get((written.path, ""))
        if written.field or shape is None or (path, "") in self._cached:
            return pattern.left
        items = [field for where, field in self._cached if where == path and field.startswith("[")]
        # What comes alone is the first and the last of its items.
        for item, field in (("[0]", "[0]"), ("[-1]", max(items, default="", key=len))):
            if self._cached.get((path, field)) == shape:
                call, running, scope = pattern.left.partition(" in ")
                return f"{call}{item}{running}{scope}"
        return pattern.left

    def _place(self, variable: int) -> str:
        """A variable's shape, and the line of the model that computes it."""
        return f"{_shown(*self._flat.shapes[variable])} at {_line(self._flat.step_of(variable))}"

    def _told(self, tap: str, standing: Standing) -> str:
        inputs = self._inputs[tap]
        told = [] if standing.is_sure else ["what follows from it is wrong as well: not certain"]
        if set(standing.computed_from) != set(inputs):
            own = ", ".join(standing.computed_from) or "no tap"
            told.append(f"computed from {own}, where the golden has {', '.join(inputs)}")
        return "; ".join(told)


def _line(step: Step) -> str:
    """The model's line that a step is of, and what stands there."""
    file, _, number = step.origin.line.rpartition(":")
    text = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
    return step.origin.line.removeprefix(str(Path.cwd()) + os.sep) + (f": {text}" if text else "")


def modules(flat: Flat) -> tuple[Module, ...]:
    """What was called, in the order of the first calls."""
    by_path: dict[str, dict[str, str]] = {}
    for index, form in sorted(flat.forms.items()):
        site = flat.marks[index].site
        by_path.setdefault(site.path, {}).setdefault(site.field, _shown(*form))
    return tuple(Module(path, tuple(fields.items())) for path, fields in by_path.items())


def _tap_of(kind: str, layer: int | str | None) -> str:
    """The tap of a kind in a layer, of every layer (`{i}`), or outside the layers."""
    return name_of("" if layer is None else f"layers.{layer}", kind)


def _shown(shape: tuple[int, ...], dtype: str) -> str:
    """An array's form, as a person reads it."""
    return f"{dtype}[{','.join(map(str, shape))}]"
