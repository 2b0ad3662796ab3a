"""Variables of a program as places of taps: marked in the finished program, by function and primitive.

They are what no call is given or returns: the sum of a residual, the product inside a function. A row names
the function whose own code computes it, the primitive, and which of these. Other functions, and what moves lines,
change nothing about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from harness.errors import PortError
from harness.run.adapters.calls import marked_array
from harness.run.adapters.table import Row, by_path
from harness.run.tracing.evaluate import INLINE
from harness.run.tracing.origins import (
    NOWHERE,
    Origin,
    has_operand,
    is_float,
    is_numeric,
    loaded_modules,
    origin_of,
    place_of,
)

MOST_LISTED = 12  # places that a message names
OPENED = frozenset({*INLINE, "scan"})  # what is in there is looked into, and is itself no variable


class Variables:
    """The rows of a table that name variables.

    Args:
        rows: those alone.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = by_path(rows)
        self._seen: Counter[str] = Counter()
        self._modules: Mapping[str, str] = {}

    def marked(self, closed: ClosedJaxpr) -> ClosedJaxpr:
        """The program with its variables marked by their rows' sites, every call of them."""
        if not self._rows:
            return closed
        self._seen, self._modules = Counter(), loaded_modules()
        return closed.replace(jaxpr=self._body(closed.jaxpr, NOWHERE))

    def never(self, row: Row) -> PortError:
        """What to say of a variable that the program does not have."""
        function, _, primitive = row.path.rpartition("/")
        same = [
            f"{place.removeprefix(f'{function}/')} x {count}"
            for place, count in self._seen.items()
            if place.startswith(f"{function}/")
        ]
        others = list(dict.fromkeys(place.partition("/")[0] for place in self._seen))
        found = ", ".join(same) or f"code of {', '.join(others[:MOST_LISTED])}"
        problem = "the model's program does not have a variable that the port's table names"
        expected = f"{primitive} in its code" + (f", while {row.scope} runs" if row.scope else "")
        hint = "the code has changed there: `goldens port PORT --discover` names it anew"
        return PortError(problem, f"{row} -> {row.tap}", expected, found, hint=hint)

    def _body(self, jaxpr: Jaxpr, around: Origin) -> Jaxpr:
        equations: list[JaxprEqn] = []
        for equation in jaxpr.eqns:
            origin = origin_of(equation, around, self._modules)
            if equation.primitive.name in OPENED:
                equations.append(equation.replace(params=self._opened(equation.params, origin)))
            elif is_numeric(equation):
                place = place_of(equation, origin)
                self._seen[place] += 1
                equations += _around(equation, self._here(place, origin))
            else:
                equations.append(equation)
        return jaxpr.replace(eqns=equations)

    def _here(self, place: str, origin: Origin) -> list[Row]:
        """The rows that are marked at an equation: those of one site are one mark."""
        rows = self._rows.get(place, ())
        running = [row for row in rows if row.scope is None or row.scope in origin.running]
        return list({row.site: row for row in running}.values())

    def _opened(self, params: Mapping[str, Any], around: Origin) -> dict[str, Any]:
        def inside(value: Any) -> Any:
            if isinstance(value, ClosedJaxpr):
                return value.replace(jaxpr=self._body(value.jaxpr, around))
            return self._body(value, around) if isinstance(value, Jaxpr) else value

        return {key: inside(value) for key, value in params.items()}


def _around(equation: JaxprEqn, rows: Iterable[Row]) -> list[JaxprEqn]:
    """An equation with marks before it, of what it is given, and after it, of what it makes."""
    before, after = list[JaxprEqn](), list[JaxprEqn]()
    given, made = list(equation.invars), list(equation.outvars)
    for row in rows:
        if isinstance(row.argument, int):
            if has_operand(equation, row.argument):
                operand = given[row.argument]
                given[row.argument] = Var(operand.aval)
                before.append(_mark(row, operand, given[row.argument]))
            continue
        index = row.item if isinstance(row.item, int) else 0
        if index < len(made) and is_float(made[index].aval):
            result, made[index] = made[index], Var(made[index].aval)
            after.insert(0, _mark(row, made[index], result))
    return [*before, equation.replace(invars=given, outvars=made), *after]


def _mark(row: Row, value: Any, marked: Any) -> JaxprEqn:
    """A variable as the mark of another, which all readers of it read."""

    def of(array: Any) -> Any:
        return marked_array(row, array)

    # What is padded takes several equations: together they are one.
    program = jax.make_jaxpr(of if row.cut is None else jax.jit(of))(
        jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)
    )
    (equation,) = program.jaxpr.eqns
    return equation.replace(invars=[value], outvars=[marked])
