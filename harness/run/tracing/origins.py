"""Where in the model's own code an equation comes from: the function, the line, and what was running there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from harness.run.contained import is_library

RUNNING = "golden:"  # before the path of a scope, in the name of a `jax.named_scope`


@dataclass(frozen=True)
class Origin:
    """Where an equation comes from.

    Attributes:
        function: `package.module:Class.method`, as Python names it; a library's code is that of who calls it.
        line: `file:line`.
        running: the paths of the scopes that were running, outermost first.
    """

    function: str
    line: str
    running: tuple[str, ...] = ()


NOWHERE = Origin("", "")


def origin_of(equation: JaxprEqn, around: Origin, modules: Mapping[str, str]) -> Origin:
    """Where an equation comes from.

    Args:
        around: of the equation whose nested code it is in. What JAX has traced once it keeps, and its own code in
            there, `jax.nn.silu`, has no caller.
        modules: of `loaded_modules`.
    """
    scopes = (getattr(scope, "name", "") for scope in equation.source_info.name_stack.stack)
    running = (*around.running, *(name.removeprefix(RUNNING) for name in scopes if name.startswith(RUNNING)))
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if not is_library(frame.file_name):
            module = modules.get(frame.file_name) or Path(frame.file_name).stem
            return Origin(f"{module}:{frame.function_name}", f"{frame.file_name}:{frame.line_num}", running)
    return Origin(around.function, around.line, running)


def loaded_modules() -> dict[str, str]:
    """The modules that are loaded, by file."""
    modules: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name != "__main__":
            modules.setdefault(file, name)
    return modules


def place_of(equation: JaxprEqn, origin: Origin) -> str:
    """An equation's place, as rows have it: `package.module:Class.method/primitive`."""
    return f"{origin.function}/{equation.primitive.name}"


def is_numeric(equation: JaxprEqn) -> bool:
    """Whether an equation makes floats: the others, arithmetic of indices and masks, are not counted."""
    return any(is_float(out.aval) for out in equation.outvars)


def is_float(aval: object) -> bool:
    return bool(jnp.issubdtype(getattr(aval, "dtype", np.dtype(bool)), jnp.floating))


def has_operand(equation: JaxprEqn, index: int) -> bool:
    """Whether operand `index` is a computed array of floats, and no number that stands in the program."""
    if index >= len(equation.invars) or isinstance(equation.invars[index], Literal):
        return False
    return is_float(equation.invars[index].aval)
