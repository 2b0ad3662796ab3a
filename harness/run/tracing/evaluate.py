"""Run a jaxpr and hand over its taps. Nested code is opened where there are taps in it, and left whole elsewhere.

Taps are values that `mark` has marked, or outputs that are watched. What the handler gives back goes on in the
place of the value, for every later reader. A scan with taps in it is unrolled, so that each iteration has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from harness.errors import PortError
from harness.run.tracing.mark import TAP
from harness.run.tracing.versions import bound, jaxprs_in_params

OnTap = Callable[[str, jax.Array], jax.Array]
Watched = Sequence[str | None]  # per output: the tap that it is, if any
ITERATION = "{i}"

# Nested code that runs exactly once: evaluating its body in place computes the same.
INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Native:
    """How equations without taps in them are computed: every one as it stands. Others compute otherwise."""

    opens: frozenset[str] = frozenset()  # nested code, by primitive, that is opened even where no tap is in it

    def constant(self, value: Any) -> Any:
        """A constant or an argument, on its way in."""
        return value

    def literal(self, literal: Literal) -> Any:
        """A number that stands in the jaxpr itself."""
        return literal.val

    def apply(self, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
        """One equation."""
        return bind(equation, operands, equation.params)

    def row(self, stacked: Any, step: int) -> Any:
        """What one iteration of a scan sees of its input."""
        return stacked[step]

    def stack(self, rows: Sequence[Any]) -> Any:
        """The rows of all iterations as one output."""
        return jax.numpy.stack(rows)


def bind(equation: JaxprEqn, operands: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Apply an equation's primitive under the settings that it was traced with."""
    with equation.ctx.manager:
        outputs = bound(equation, operands, params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


class Evaluator:
    """Evaluates jaxprs with one handler of taps and one arithmetic."""

    def __init__(self, on_tap: OnTap, arithmetic: Native) -> None:
        self._on_tap = on_tap
        self._arithmetic = arithmetic

    def __call__(
        self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], watched: Watched = ()
    ) -> list[Any]:
        """Evaluate a jaxpr.

        Args:
            watched: for every output the name of the tap that it is, or None.

        Raises:
            PortError: a tap where it cannot be handed over: in a while loop, a branch, or a shard_map.
        """
        constants = [self._arithmetic.constant(value) for value in constants]
        arguments = [self._arithmetic.constant(value) for value in arguments]
        return self._run(jaxpr, constants, arguments, watched, ())

    def equation(self, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
        """Evaluate a single equation, whose operands are in this arithmetic already."""
        return self._equation(equation, list(operands), [None] * len(equation.outvars), ())[0]

    def _run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        arguments: Sequence[Any],
        watched: Watched,
        iterations: tuple[int, ...],
    ) -> list[Any]:
        values: dict[Var, Any] = {}
        names = _names(jaxpr, watched)

        def hand_over(var: Var, value: Any) -> Any:
            for name in names.get(var, ()):
                value = self._on_tap(_resolved(name, iterations), value)
            return value

        def read(atom: Var | Literal) -> Any:
            return self._arithmetic.literal(atom) if isinstance(atom, Literal) else values[atom]

        for var, value in zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True):
            values[var] = hand_over(var, value)
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive is TAP:
                marked = self._on_tap(_resolved(equation.params["name"], iterations), operands[0])
                marked = hand_over(equation.outvars[0], marked)
                # Whoever else reads this value later on reads what has replaced it: it is one value.
                values[equation.invars[0]] = values[equation.outvars[0]] = marked
                continue
            inner = [next(iter(names.get(var, ())), None) for var in equation.outvars]
            outputs, handed_over = self._equation(equation, operands, inner, iterations)
            for var, value, done in zip(equation.outvars, outputs, handed_over, strict=True):
                values[var] = value if done else hand_over(var, value)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self, equation: JaxprEqn, operands: list[Any], watched: Watched, iterations: tuple[int, ...]
    ) -> tuple[list[Any], list[bool]]:
        """The equation's outputs, and which of them have been handed over inside it."""
        name, params = equation.primitive.name, equation.params
        tapped = _has_taps(params)
        if name in INLINE and (tapped or any(watched) or name in self._arithmetic.opens):
            outputs = self._run(*self._opened(params[INLINE[name]]), operands, watched, iterations)
            return outputs, [tap is not None for tap in watched]
        if name == "scan" and (tapped or any(_is_iterated(tap) for tap in watched)):
            return self._unrolled(equation, operands, watched, iterations)
        if tapped:
            raise not_handed_over(f"inside {name}")
        return self._arithmetic.apply(equation, operands), [False] * len(equation.outvars)

    def _unrolled(
        self, equation: JaxprEqn, operands: list[Any], watched: Watched, iterations: tuple[int, ...]
    ) -> tuple[list[Any], list[bool]]:
        """A scan as a Python loop, for the sake of the taps in its body."""
        params = equation.params
        consts, carried = params["num_consts"], params["num_carry"]
        body, constants = self._opened(params["jaxpr"])
        fixed, carry, stacked = operands[:consts], operands[consts:][:carried], operands[consts + carried :]
        inner = [name if _is_iterated(name) else None for name in watched]
        inner[:carried] = [None] * carried
        steps = range(params["length"])
        rows: dict[int, list[Any]] = {}
        for step in reversed(steps) if params["reverse"] else steps:
            seen = (self._arithmetic.row(x, step) for x in stacked)
            outputs = self._run(body, constants, [*fixed, *carry, *seen], inner, (*iterations, step))
            carry, rows[step] = outputs[:carried], outputs[carried:]
        columns = [
            self._arithmetic.stack([rows[step][n] for step in steps]) for n in range(len(watched) - carried)
        ]
        return [*carry, *columns], [name is not None for name in inner]

    def _opened(self, body: Jaxpr | ClosedJaxpr) -> tuple[Jaxpr, Sequence[Any]]:
        """A nested program, and its constants in this arithmetic."""
        jaxpr, constants = opened(body)
        return jaxpr, [self._arithmetic.constant(value) for value in constants]


def not_handed_over(where: str) -> PortError:
    """The refusal of a tap in nested code that is no plain sequence."""
    problem = "a tap stands where its value cannot be handed over"
    hint = "leave this tap out of the port's table; it is then reported as not covered"
    return PortError(problem, where, "taps in plain code, jit, scan, remat, custom_jvp or custom_vjp", hint=hint)


def opened(body: Jaxpr | ClosedJaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    """A nested program and its constants."""
    return (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())


def _names(jaxpr: Jaxpr, watched: Watched) -> dict[Var, list[str]]:
    """The watched outputs by variable: one value may be two outputs."""
    names: dict[Var, list[str]] = {}
    for var, name in zip(jaxpr.outvars, watched, strict=False):
        if name is not None and isinstance(var, Var):
            names.setdefault(var, []).append(name)
    return names


def _is_iterated(name: str | None) -> bool:
    return name is not None and ITERATION in name


def _resolved(name: str, iterations: tuple[int, ...]) -> str:
    if ITERATION not in name:
        return name
    if not iterations:
        problem = "a tap's name has {i}, but its value is not made inside a scan"
        hint = "write {i} on both sides of the table: 'layers.{i}.attn' -> 'layers.{i}.attn_out'"
        raise PortError(problem, name, "{i} in the path as well, or a scan over the layers", hint=hint)
    return name.replace(ITERATION, str(iterations[-1]))


def _has_taps(params: dict[str, Any]) -> bool:
    return any(holds_taps(inner) for inner in jaxprs_in_params(params))


@lru_cache(maxsize=4096)
def holds_taps(jaxpr: Jaxpr) -> bool:
    """Whether values are marked in a program, nested code included."""
    return any(eqn.primitive is TAP or _has_taps(eqn.params) for eqn in jaxpr.eqns)
