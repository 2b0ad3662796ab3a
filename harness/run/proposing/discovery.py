"""`goldens port --discover`: the taps of a golden among all variables of a port's program, written as rows."""

from __future__ import annotations

import linecache
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness.architecture import Config, architecture_of
from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.layout import layer_of
from harness.run.adapters.table import is_function, is_variable
from harness.run.contained import CannotLift
from harness.run.progress import Progress
from harness.run.proposing.dataflow import DataFlow
from harness.run.proposing.flat import Flat, Step, flattened
from harness.run.proposing.matching import Matcher
from harness.run.proposing.patterns import Option, Pattern
from harness.run.proposing.places import Places
from harness.run.proposing.proposal import (
    Absent,
    Module,
    Proposal,
    ProposedRow,
    modules_of,
    plainest,
    propose,
    shown,
    tap_of,
)
from harness.run.proposing.standing import Standing, Traced
from harness.run.proposing.values import Values
from harness.run.proposing.watched import Watched
from harness.run.source import GoldenSource
from harness.store import Golden
from harness.taps import kind_of, recorded_inputs


def propose_discovered(
    golden_path: str | Path,
    checkpoint: Path | None,
    spec: str,
    case: str | None,
    precision: str | None,
    progress: Progress,
) -> Proposal:
    """Propose the table of an adapted port from all variables of its program; the arguments are `propose`'s.

    Args:
        precision: None is float64, or float32 where the golden's truth or the model is no wider.
    """

    def at(precision: str) -> Proposal:
        return propose(golden_path, checkpoint, spec, case, precision, progress, discovered)

    if precision is not None:
        return at(precision)
    try:
        return at("float64")
    except CannotLift as error:
        return replace(at("float32"), note=f"float64: {error.problem}, {error.where}")
    except UsageError:
        return at("float32")  # which says the same if it was anything else


def discovered(
    port: Any, golden: Golden, case: CaseEntry, config: Config, precision: str, progress: Progress
) -> Proposal:
    """Propose the table of a port that is loaded, from all variables of its program.

    Raises:
        PortError: the port is no adapted one, or its model cannot be traced.
        CannotLift: in float64, an operation stays narrow.
    """
    arch, given = architecture_of(config), golden.case(case.name)
    arguments = [given.input_ids.astype(np.int32), given.positions.astype(np.int32), given.mask]
    progress.begin(f"{precision}: tracing the model")
    watched = Watched(port, [jax.device_put(value) for value in arguments])
    arithmetic = watched.port._program.arithmetic()
    flat = flattened(watched, arch.layers, precision, arithmetic)
    matcher = Matcher(GoldenSource(golden, precision), case, arch)
    progress.begin(f"{precision}: comparing {len(flat.shapes):,} variables")
    with watched.port.context():
        flow = DataFlow(flat, Values(flat, arithmetic, matcher.golden), matcher, progress.advance)
        found = flow(arch.layers)
    rows = _Rows(flat, found, matcher, Places(flat.marks, watched.methods))
    return Proposal(
        case=case.name,
        tokens=case.shape[1],
        precision=precision,
        rows=rows(),
        modules=_modules(flat),
        missing=tuple(tap for tap in matcher.taps if tap not in found.found and tap not in found.standing),
        functions=tuple(dict.fromkeys(m.site.path for m in watched.marks if is_function(m.site.path))),
        logits=found.logits,
        gave_up=False,
        discovered=len(flat.shapes),
        absent=tuple(rows.absent()),
    )


class _Rows:
    """Rows for every kind of tap, the plainest place of each from which all goes on."""

    def __init__(self, flat: Flat, found: Traced, matcher: Matcher, places: Places) -> None:
        self._flat, self._found, self._matcher, self._places = flat, found, matcher, places
        self._readers = flat.readers()
        self._inputs = recorded_inputs(matcher.graph, {*matcher.taps, "logits"})
        self._kinds = list(dict.fromkeys(map(kind_of, matcher.taps)))

    def __call__(self) -> tuple[ProposedRow, ...]:
        options: dict[str, list[Option]] = defaultdict(list)
        for tap in self._matcher.taps:
            for variable, layout in self._variables(tap):
                for mark, iteration in self._flat.places.get(variable, ()):
                    for written in self._places.written(mark):
                        option = Option(written, layout, kind_of(tap), layer_of(tap), iteration)
                        options[option.kind].append(option)
        return tuple(self._row(kind, pattern) for kind, pattern in plainest(self._kinds, options))

    def absent(self) -> Iterator[Absent]:
        """The taps whose operation is not there."""
        for tap, one in self._found.standing.items():
            if one.is_input:
                yield Absent(tap, one.computed_from, _line(self._flat.steps[min(one.edges)]))

    def _variables(self, tap: str) -> list[tuple[int, str | None]]:
        """The variables in whose place the golden reaches all that reads the tap, with their layouts."""
        standing = self._found.standing.get(tap)
        if standing is not None:
            return [] if standing.is_input else [(standing.variable, standing.layout)]
        layouts = {variable: match.layout for variable, match in self._found.found.get(tap, ())}
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
        taps = [tap_of(kind, option.layer) for option in pattern.options]
        standing = {tap: self._found.standing[tap] for tap in taps if tap in self._found.standing}
        right = [
            max((match.multiple, match.allowed) for _, match in self._found.found[tap])
            for tap in taps
            if tap not in standing
        ]
        first = pattern.options[0]
        place = ""
        if is_variable(first.written.path):
            place = self._place(self._variable(first))
        also = {kind_of(other) for tap in taps for other in self._found.also.get(tap, ())} - {kind}
        return ProposedRow(
            pattern.left,
            tap_of(kind, "{i}") if len(taps) > 1 else taps[0],
            pattern.layout,
            max(right, default=None),
            tuple(standing),
            max((one.far for one in standing.values()), default=0.0),
            tuple(other for other in self._kinds if other in also),
            place or (self._place(next(iter(standing.values())).variable) if standing else ""),
            "; ".join(dict.fromkeys(self._told(tap, one) for tap, one in list(standing.items())[:1])),
        )

    def _variable(self, option: Option) -> int:
        place = option.written.mark, option.iteration
        tap = tap_of(option.kind, option.layer)
        return next(x for x, _ in self._variables(tap) if place in self._flat.places.get(x, ()))

    def _place(self, variable: int) -> str:
        """A variable's shape, and the line of the model that computes it."""
        return f"{shown(*self._flat.shapes[variable])} at {_line(self._flat.step_of(variable))}"

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


def _modules(flat: Flat) -> tuple[Module, ...]:
    called = [
        (mark.index, mark.site, shown(*flat.shapes[variable]))
        for variable, places in flat.places.items()
        for mark, _ in places
        if variable in flat.shapes and not is_variable(mark.site.path)
    ]
    return modules_of((site, form) for _, site, form in sorted(called, key=lambda one: one[0]))
