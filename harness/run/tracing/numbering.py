"""Which call of several a tap is: marks are named by their place while a program is traced, and here by their tap.

The calls of a place are counted in the finished program, in the order in which they are run: what JAX traces twice
counts once, and a jitted function that is traced once counts as often as it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from harness.errors import PortError
from harness.run.tracing.evaluate import INLINE, ITERATION, holds_taps, not_handed_over
from harness.run.tracing.mark import TAP
from harness.run.tracing.versions import jaxprs_in_params

PLAIN = 0  # the number of the code outside of every scan


@dataclass(frozen=True)
class Wanted:
    """One row of a table.

    Attributes:
        site: the name of the marks at its place.
        call: which call there, from 0, or from -1 for the last; None where there has to be one.
        tap: what it is called; with `{i}` where a scan counts.
    """

    site: str
    call: int | None
    tap: str

    @property
    def looped(self) -> bool:
        """Whether a scan counts its layers."""
        return ITERATION in self.tap


Never = Callable[[Wanted], PortError]  # what to say of a place that is never called


@dataclass
class Calls:
    """How often each place was called.

    Attributes:
        counts: by place and scan (0 is none): calls, in one iteration of the scan.
        closed: by place: nested code in which no value can be handed over.
    """

    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)

    def count(self, site: str, loop: int = PLAIN) -> None:
        """One call more."""
        self.counts[site, loop] = self.counts.get((site, loop), 0) + 1

    def of(self, wanted: Wanted) -> dict[int, int]:
        """The calls that a row can mean, by scan."""
        return {
            loop: count
            for (site, loop), count in self.counts.items()
            if site == wanted.site and (loop != PLAIN) == wanted.looped
        }


def numbered(closed: ClosedJaxpr, wanted: Sequence[Wanted], never: Never | None) -> ClosedJaxpr:
    """The program with its marks named by tap, and without those that no row wants.

    Args:
        never: what to say of a place that is never called. None for the beginning of a program, in which rows need
            not have been called yet.

    Raises:
        PortError: a row whose place is never called, or called more often than it says.
    """
    calls = Calls()
    _Walk(calls.count, calls)(closed.jaxpr)
    if never is not None:
        for row in wanted:
            _refuse_ambiguous(row, calls, never)
    names, seen = _by_call(wanted, calls), dict[tuple[str, int], int]()

    def named(site: str, loop: int) -> str | None:
        call = seen[site, loop] = seen.get((site, loop), -1) + 1
        return names.get((site, loop, call))

    return closed.replace(jaxpr=_Walk(named, Calls())(closed.jaxpr))


def _refuse_ambiguous(wanted: Wanted, made: Calls, never: Never) -> None:
    """A row has to mean one call.

    Raises:
        PortError: it means none, or could mean several.
    """
    calls = made.of(wanted)
    most = max(calls.values(), default=0)
    several = f"{most} call{'' if most == 1 else 's'}"
    if not calls:
        raise _not_called(wanted, made, never)
    if wanted.call is None and (most > 1 or wanted.site in made.closed):
        also = f", and inside {made.closed[wanted.site]}" if wanted.site in made.closed else ""
        scoped = "" if " in " in wanted.site else "; or say what has to be running: '... in layers.{i}.attn'"
        problem = "a row of the port's table names something that is called more than once"
        expected = "one call, or the number of the one that is meant"
        hint = f"number it: {_numbers(wanted.site, most)}{scoped}"
        raise PortError(problem, f"{wanted.site} -> {wanted.tap}", expected, f"{several}{also}", hint=hint)
    if wanted.call is not None and not -most <= wanted.call < most:
        problem = "a row of the port's table numbers a call that is not made"
        where = f"call {wanted.call} of {wanted.site}, for {wanted.tap}"
        raise PortError(problem, where, f"0 to {most - 1}", several, hint="correct the number; they count from 0")


def _numbers(site: str, count: int) -> str:
    """How the first and the last call of a place are written."""
    place, rest = _split(site)
    return f"'{place}#0{rest}' to '{place}#{max(count, 1) - 1}{rest}'"


def _split(site: str) -> tuple[str, str]:
    end = min((site.index(mark) for mark in ("[", "(", " in ") if mark in site), default=len(site))
    return site[:end], site[end:]


def _not_called(wanted: Wanted, made: Calls, never: Never) -> PortError:
    if wanted.site in made.closed:
        return not_handed_over(f"{wanted.site}, inside {made.closed[wanted.site]}")
    elsewhere = {loop for site, loop in made.counts if site == wanted.site}
    if elsewhere and wanted.looped:
        problem = "a tap's name has {i}, but its value is not made inside a scan"
        expected = "{i} on both sides, or a scan over the layers"
        hint = "write {i} on the left as well: in the path, in what has to be running "
        hint += "('... in layers.{i}.attn'), or in the number of the call ('#{i}')"
        return PortError(problem, f"{wanted.site} -> {wanted.tap}", expected, hint=hint)
    if elsewhere:
        problem = "the value of a tap of one layer is made inside a scan"
        expected = "{i} on the right side alone: the iteration of the scan"
        hint = "write {i} on the right side and not on the left"
        return PortError(problem, f"{wanted.site} -> {wanted.tap}", expected, hint=hint)
    return never(wanted)


def _by_call(wanted: Iterable[Wanted], made: Calls) -> Mapping[tuple[str, int, int], str]:
    """The names of the marks that are taps: by place, scan and number of the call there."""
    names: dict[tuple[str, int, int], str] = {}
    for row in wanted:
        for loop, count in made.of(row).items():
            key = (row.site, loop, (row.call or 0) % count)
            if key in names:
                problem, where = "two rows of the port's table name one call", f"call {key[2]} of {row.site}"
                hint = "correct the numbers; calls count from 0, and from -1 at the end"
                named = f"{names[key]} and {row.tap}"
                raise PortError(problem, where, "one row for every call", named, hint=hint)
            names[key] = row.tap
    return names


class _Walk:
    """A program with every mark renamed, or removed where it has no name; nested code in the order of its calls.

    Args:
        name: the name of a mark at a place, in a scan.
        made: told of places in nested code in which no value can be handed over. Marks there are removed.
    """

    def __init__(self, name: Callable[[str, int], str | None], made: Calls) -> None:
        self._name, self._made = name, made
        self._scans = PLAIN

    def __call__(self, jaxpr: Jaxpr) -> Jaxpr:
        return self._body(jaxpr, PLAIN)

    def _body(self, jaxpr: Jaxpr, loop: int) -> Jaxpr:
        if not holds_taps(jaxpr):
            return jaxpr
        instead: dict[Var, Any] = {}

        def read(atom: Any) -> Any:
            return atom if isinstance(atom, Literal) else instead.get(atom, atom)

        equations = []
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive is TAP:
                name = self._name(equation.params["name"], loop)
                if name is None:
                    instead[equation.outvars[0]] = operands[0]
                    continue
                equations.append(equation.replace(invars=operands, params={**equation.params, "name": name}))
            else:
                equations.append(equation.replace(invars=operands, params=self._params(equation, loop)))
        return jaxpr.replace(eqns=equations, outvars=[read(atom) for atom in jaxpr.outvars])

    def _closed(self, primitive: str, site: str, loop: int) -> None:
        self._made.closed[site] = primitive

    def _params(self, equation: JaxprEqn, loop: int) -> Mapping[str, Any]:
        params: dict[str, Any] = equation.params
        if not any(map(holds_taps, jaxprs_in_params(params))):
            return params
        name, walk = equation.primitive.name, self
        if name == "scan":
            self._scans += 1
            loop = self._scans
        elif name not in INLINE:
            walk = _Walk(functools.partial(self._closed, name), self._made)

        def replaced(value: Any) -> Any:
            if isinstance(value, ClosedJaxpr):
                return value.replace(jaxpr=walk._body(value.jaxpr, loop))
            if isinstance(value, Jaxpr):
                return walk._body(value, loop)
            return tuple(map(replaced, value)) if isinstance(value, tuple) else value

        return {key: replaced(value) for key, value in params.items()}
