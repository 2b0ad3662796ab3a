"""A program without nesting: every equation once for every time that it runs, every variable with a number.

Nested code that runs once is opened, and a scan over the layers is as many copies of its body: what is computed
from what can then be read off.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from harness.run.adapters.calls import Site
from harness.run.proposing.watched import Mark, Watched, index_of
from harness.run.tracing.evaluate import INLINE, Native, opened
from harness.run.tracing.mark import TAP
from harness.run.tracing.numbering import PLAIN
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

Place = tuple[Mark, int | None]  # and the iteration of the scan that it is in
Form = tuple[tuple[int, ...], str]  # shape and dtype


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    Attributes:
        equation: None for a row of what a scan is given, and for the stack of what it returns.
        row: which row, where it is one.
    """

    equation: JaxprEqn | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    origin: Origin
    row: int | None = None


@dataclass
class Flat:
    """A flat program.

    Attributes:
        given: the values of constants, arguments and numbers, by variable.
        places: by variable, how it can be named: as what a call is given or returns, and by its primitive.
        marks: all of them, in the order of the program.
        forms: by mark of what a call is given or returns, its shape and dtype.
        shapes: by variable that is looked at, which an equation makes and which holds floats: the same.
        made_at: by variable, the number of its step.
        outputs: of the program; the logits are first.
    """

    given: dict[int, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    places: dict[int, list[Place]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    forms: dict[int, Form] = field(default_factory=dict)
    shapes: dict[int, Form] = field(default_factory=dict)
    made_at: dict[int, int] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()

    def step_of(self, variable: int) -> Step:
        """The step that computes it."""
        return self.steps[self.made_at[variable]]

    def readers(self) -> dict[int, list[int]]:
        """By variable, the steps that read it."""
        readers: dict[int, list[int]] = {}
        for at, step in enumerate(self.steps):
            for variable in dict.fromkeys(step.inputs):
                readers.setdefault(variable, []).append(at)
        return readers

    def without_dead(self, output: int) -> None:
        """Leave the steps alone from which a variable is computed."""
        needed, steps = {output}, list[Step]()
        for step in reversed(self.steps):
            if needed & {*step.outputs}:
                needed.update(step.inputs)
                steps.append(step)
        self.steps = steps[::-1]
        self.made_at = {v: at for at, step in enumerate(self.steps) for v in step.outputs}


def flattened(watched: Watched, layers: int, dtype: str, arithmetic: Native, names_variables: bool = True) -> Flat:
    """The program of a model as a flat one.

    Args:
        layers: longer scans count something else, and are one step.
        dtype: of the check.
        names_variables: whether what no call is given or returns has places too, and is looked at.
    """
    flattening = _Flattening(watched.marks, layers, dtype, arithmetic, names_variables)
    flat = flattening(watched.closed, watched.arguments)
    for key, output in zip(watched.names, flat.outputs, strict=True):
        if key is not None:  # what a scan stacks is one key for all layers
            step = flat.steps[flat.made_at[output]] if output in flat.made_at else None
            rows = step.inputs if step is not None and step.equation is None and step.row is None else None
            mark = Mark(len(flat.marks), Site(key, "", ()), PLAIN if rows is None else 1)
            flat.marks.append(mark)
            for variable, iteration in [(output, None)] if rows is None else zip(rows, itertools.count()):
                flat.places.setdefault(variable, []).append((mark, iteration))
                if variable in flat.shapes:
                    flat.forms[mark.index] = flat.shapes[variable]
    if not names_variables:
        flat.shapes = {variable: form for variable, form in flat.shapes.items() if variable in flat.places}
    flat.without_dead(flat.outputs[0])
    return flat


class _Flattening:
    def __init__(
        self, marks: Sequence[Mark], layers: int, dtype: str, arithmetic: Native, names_variables: bool
    ) -> None:
        self._called, self._layers, self._dtype, self._arithmetic = marks, layers, dtype, arithmetic
        self._names_variables = names_variables
        self._modules = loaded_modules()
        self._flat = Flat(marks=list(marks))
        self._next, self._scans = 0, PLAIN
        self._loop = PLAIN
        self._iteration: int | None = None
        # In the first iteration of a scan its marks are made, in the others they are the same ones.
        self._remembered: list[Mark] = []
        self._cursor: int | None = None

    def __call__(self, closed: ClosedJaxpr, arguments: Sequence[Any]) -> Flat:
        given = [self._given(value) for value in jax.tree.leaves(arguments)]
        self._flat.outputs = tuple(self._body(closed.jaxpr, self._constants(closed.consts), given, NOWHERE))
        self._flat.made_at = {v: at for at, step in enumerate(self._flat.steps) for v in step.outputs}
        return self._flat

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _given(self, value: Any) -> int:
        variable = self._new()
        self._flat.given[variable] = self._arithmetic.constant(value)
        return variable

    def _constants(self, values: Sequence[Any]) -> list[int]:
        return [self._given(value) for value in values]

    def _body(self, jaxpr: Jaxpr, constants: list[int], arguments: list[int], around: Origin) -> list[int]:
        known: dict[Var, int] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

        def read(atom: Any) -> int:
            if not isinstance(atom, Literal):
                return known[atom]
            variable = self._new()
            self._flat.given[variable] = self._arithmetic.literal(atom)
            return variable

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            known.update(zip(equation.outvars, self._equation(equation, inputs, around), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, inputs: list[int], around: Origin) -> list[int]:
        name, params = equation.primitive.name, equation.params
        if equation.primitive is TAP:
            index = index_of(equation)
            self._flat.places.setdefault(inputs[0], []).append((self._called[index], self._iteration))
            self._flat.forms[index] = _form(equation.outvars[0].aval)
            return inputs
        origin = origin_of(equation, around, self._modules)
        if name in INLINE:
            inner, constants = opened(params[INLINE[name]])
            return self._body(inner, self._constants(constants), inputs, origin)
        if name == "scan" and self._loop == PLAIN and params["length"] <= self._layers:
            return self._unrolled(equation, inputs, origin)
        outputs = [self._new() for _ in equation.outvars]
        self._flat.steps.append(Step(equation, tuple(inputs), tuple(outputs), origin))
        # A scan is no variable by itself: only what it is given to, and what that makes.
        if self._names_variables and name != "scan" and is_numeric(equation):
            self._name(equation, inputs, outputs, origin)
        for variable, out in zip(outputs, equation.outvars, strict=True):
            if is_float(out.aval):
                self._flat.shapes[variable] = _form(out.aval)
        return outputs

    def _unrolled(self, equation: JaxprEqn, inputs: list[int], origin: Origin) -> list[int]:
        params = equation.params
        consts, carried, length = params["num_consts"], params["num_carry"], params["length"]
        body, values = opened(params["jaxpr"])
        constants = self._constants(values)
        fixed, carry, stacked = inputs[:consts], inputs[consts:][:carried], inputs[consts + carried :]
        self._scans += 1
        self._loop, self._remembered = self._scans, []
        rows: dict[int, list[int]] = {}
        for count, step in enumerate(reversed(range(length)) if params["reverse"] else range(length)):
            self._iteration, self._cursor = step, None if count == 0 else 0
            seen = [self._plain((variable,), origin, step) for variable in stacked]
            outputs = self._body(body, constants, [*fixed, *carry, *seen], origin)
            carry, rows[step] = outputs[:carried], outputs[carried:]
        self._loop, self._iteration, self._cursor = PLAIN, None, None
        columns = len(equation.outvars) - carried
        stacks = [self._plain(tuple(rows[step][n] for step in range(length)), origin) for n in range(columns)]
        return [*carry, *stacks]

    def _plain(self, inputs: tuple[int, ...], origin: Origin, row: int | None = None) -> int:
        output = self._new()
        self._flat.steps.append(Step(None, inputs, (output,), origin, row))
        return output

    def _name(self, equation: JaxprEqn, inputs: list[int], outputs: list[int], origin: Origin) -> None:
        """Name what an equation makes, and what it is given, by function and primitive."""
        place = place_of(equation, origin)
        for n in range(len(inputs)):
            if has_operand(equation, n):
                self._put(inputs[n], Site(place, f"({n})", origin.running), equation.invars[n].aval)
        for n, out in enumerate(equation.outvars):
            if is_float(out.aval):
                field = f"[{n}]" if len(outputs) > 1 else ""
                self._put(outputs[n], Site(place, field, origin.running), out.aval)

    def _put(self, variable: int, site: Site, aval: Any) -> None:
        if self._cursor is None:
            is_other = str(aval.dtype) != self._dtype
            mark = Mark(len(self._flat.marks), site, self._loop, is_other=is_other)
            self._flat.marks.append(mark)
            self._remembered.append(mark)
        else:
            mark = self._remembered[self._cursor]
            self._cursor += 1
        self._flat.places.setdefault(variable, []).append((mark, self._iteration))


def _form(aval: Any) -> Form:
    return tuple(aval.shape), str(aval.dtype)
