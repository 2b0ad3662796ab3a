"""The program of a model that looks at values while it is traced: it is asked, answered and traced again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from harness.errors import PortError
from harness.run.contained import blaming_the_port, own_line
from harness.run.tracing.answers import MOST, UNANSWERED, Question, answering, untraceable


def traced(model: Callable[..., Any], arguments: Sequence[Any]) -> tuple[ClosedJaxpr, Any]:
    """A model's program, and the shapes of what it returns.

    What it looks at it is told from its own values: inputs, mostly, and what is made of these alone.

    Raises:
        PortError: it raises, looks at a value inside jit or scan, or at values without end.
    """
    answers: list[np.ndarray] = []
    place: str | None = None
    while len(answers) <= MOST:
        questions: list[Question] = []

        def asked(*given: Any, questions: list[Question] = questions) -> Any:
            try:
                with answering(given, answers):
                    return model(*given)
            except Question as question:
                questions.append(question)
                return question.value

        try:
            with blaming_the_port("run"):
                closed, shape = jax.make_jaxpr(asked, return_shape=True)(*arguments)
        except PortError as error:
            if isinstance(error.__cause__, UNANSWERED):
                raise untraceable(error.__cause__) from error
            raise
        if not questions:
            return closed, shape
        place = place or own_line(questions[0])
        answers.append(np.asarray(jaxpr_as_fun(closed)(*jax.tree.leaves(arguments))[0]))
    raise PortError(
        "the model looks at values without end",
        where=place,
        expected=f"at most {MOST} in one forward pass",
        found="more",
        hint="compute with jax.numpy there, or look at fewer values",
    )
