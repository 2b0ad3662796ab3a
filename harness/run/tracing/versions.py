"""What differs between the versions of jax: the oldest that is tested is the floor in pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.extend.core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

__all__ = ["bound", "jaxprs_in_params"]


def _jaxprs_in_params(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs among an equation's parameters, alone or in a tuple of several: the branches of a cond."""
    for value in params.values():
        for program in value if isinstance(value, tuple) else (value,):
            if isinstance(program, Jaxpr):
                yield program
            elif isinstance(program, ClosedJaxpr):
                yield program.jaxpr


# Offered since jax 0.10.
jaxprs_in_params = getattr(jax.extend.core, "jaxprs_in_params", _jaxprs_in_params)


def bound(equation: JaxprEqn, operands: Sequence[Any], params: dict[str, Any]) -> Any:
    """What an equation's primitive returns. Before jax 0.10 functions that it calls were operands as well."""
    given = equation.primitive.get_bind_params(params)
    functions, named = given if isinstance(given, tuple) else ((), given)
    return equation.primitive.bind(*functions, *operands, **named)
