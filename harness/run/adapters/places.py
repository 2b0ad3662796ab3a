"""The places of a table in a model: sub-modules, functions, what has to be running; named when all are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from harness.errors import PortError
from harness.run.adapters.layout import REST, WithoutRest
from harness.run.adapters.replaced import all_replaced, bound_elsewhere, functions_of
from harness.run.adapters.running import alike_indices, traced_for
from harness.run.adapters.table import Row, scopes
from harness.run.adapters.variables import Variables
from harness.run.contained import origin
from harness.run.tapping import Session, TapFunction
from harness.run.tracing.answers import UNANSWERED, Asks, Question, answering, untraceable
from harness.run.tracing.numbering import Never, Wanted, numbered


class Places:
    """What a table names.

    Args:
        table: all rows, of sub-modules and of functions.

    Attributes:
        rows: those of sub-modules, and of sub-modules that others are `in` (with an empty tap).

    Raises:
        PortError: a function that its module does not have.
    """

    def __init__(self, table: Sequence[Row]) -> None:
        self._table = tuple(table)
        placed = (*self._table, *scopes(table))
        self.rows = tuple(row for row in placed if not row.is_function and not row.is_variable)
        self._functions = functions_of(placed)
        self._variables = Variables(row for row in table if row.is_variable)
        self._cuts = any(row.cut is not None for row in table)
        # Only functions can sit in code that JAX has traced before, for another table or in another place.
        self._key = tuple(map(str, placed)) if self._functions or len(placed) > len(self._table) else None

    def wanted(self, watches: bool) -> tuple[Wanted, ...]:
        """Which call of which place is which tap; of keys that a function returns there is none."""
        marked = [row for row in self._table if row.is_function or row.is_variable or not watches]
        rest = [row for row in marked if row.cut is not None]
        return (
            *(Wanted(row.site, row.call, row.tap) for row in marked),
            *(Wanted(row.site + REST, row.call, row.tap + REST) for row in rest),
        )

    def without_rest(self, tap: TapFunction) -> TapFunction:
        """The tap, which is not shown what is cut off."""
        return WithoutRest(tap) if self._cuts and isinstance(tap, Session) else tap

    def traced(
        self,
        model: Callable[..., Any],
        arguments: Sequence[Any],
        watches: bool,
        answers: Sequence[np.ndarray] = (),
    ) -> Any:
        """What a model returns, its program traced with every mark named by its tap.

        Args:
            answers: what the model is told of the values that it looks at.

        Raises:
            PortError: a row whose place is never called, or more often than it says.
            Asks: the model looks at one value more.
        """

        def asking(*given: Any) -> Any:
            try:
                return self._run(model, answers, *given)
            except Question as question:
                raise Asks(origin(question)[1]) from None

        return self._evaluated(asking, arguments, self.wanted(watches), self.never)

    def asked(
        self, model: Callable[..., Any], arguments: Sequence[Any], watches: bool, answers: Sequence[np.ndarray]
    ) -> Any:
        """The value at which a model looks when it has been told some."""

        def up_to_it(*given: Any) -> Any:
            try:
                self._run(model, answers, *given)
            except Question as question:
                return question.value
            problem = "the model looks at other values in another pass on the same inputs"
            hint = "a model has to do the same whenever it is given the same"
            raise PortError(problem, f"question {len(answers) + 1}", hint=hint)

        return self._evaluated(up_to_it, arguments, self.wanted(watches), None)

    def _evaluated(
        self, model: Callable[..., Any], arguments: Sequence[Any], wanted: Sequence[Wanted], never: Never | None
    ) -> Any:
        try:
            closed, shape = jax.make_jaxpr(model, return_shape=True)(*arguments)
        except UNANSWERED as error:
            raise untraceable(error) from error
        program = jaxpr_as_fun(numbered(self._variables.marked(closed), wanted, never))
        return jax.tree.unflatten(jax.tree.structure(shape), program(*jax.tree.leaves(arguments)))

    def _run(self, model: Callable[..., Any], answers: Sequence[np.ndarray], *given: Any) -> Any:
        with alike_indices(), ExitStack() as stack:
            if self._key is not None:
                stack.enter_context(all_replaced(self._functions))
                stack.enter_context(traced_for(self._key))
            stack.enter_context(answering(given, answers))
            return model(*given)

    def never(self, wanted: Wanted) -> PortError:
        """What to say of a place that is never called."""
        row = next(row for row in self._table if row.site == wanted.site.removesuffix(REST))
        if row.is_variable:
            return self._variables.never(row)
        function = next((known for known in self._functions if known.path == row.path), None)
        hint = "correct the path in the table, or leave it out: it is then reported as not covered"
        if function is not None:
            others = bound_elsewhere(function)
            hint = "a row names the module whose own name for the function is looked up at the call: after `from "
            hint += f"{row.path.partition(':')[0]} import {function.name}` that is the importing one"
            hint += f"; this function is also {', '.join(others)}" if others else ""
        problem = "the model never makes a value that the port's table names"
        expected = "one call of it in every forward pass" + (f", while {row.scope} runs" if row.scope else "")
        return PortError(problem, f"{row} -> {wanted.tap}", expected, "none", hint=hint)
