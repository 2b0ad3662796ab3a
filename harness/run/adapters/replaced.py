"""Functions of a model as places of taps: a module's attribute is replaced while the model is traced.

What is called is what its caller looks up. After `from pkg.rope import apply_rope`, a module has a name of its own
for it, and a row has to name that one: `pkg.attention:apply_rope`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from harness.errors import PortError, first_line
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row, by_path

MOST_NAMED = 4  # of the other modules that have the same function


@dataclass(frozen=True, eq=False)
class Function:
    """A function, or a method of a class, where it is looked up.

    Attributes:
        path: as rows have it.
        owner: the module or the class that has it.
        name: its name there.
        rows: what is a tap of it.
    """

    path: str
    owner: Any
    name: str
    rows: tuple[Row, ...]

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Its calls are marked; it is put back whatever happens."""
        own, held = self.name in vars(self.owner), self.held
        setattr(self.owner, self.name, self._marked(held))
        try:
            yield
        finally:
            if own:
                setattr(self.owner, self.name, held)
            else:  # a class that inherits it
                delattr(self.owner, self.name)

    @property
    def held(self) -> Any:
        """What the owner has under that name now; of a class before it is bound."""
        return _held(self.owner, self.name)

    def _marked(self, held: Any) -> Any:
        if isinstance(held, (staticmethod, classmethod)):
            return type(held)(_marked(held.__func__, self.rows, int(isinstance(held, classmethod))))
        return _marked(held, self.rows, int(inspect.isclass(self.owner)))


def _marked(function: Callable[..., Any], rows: tuple[Row, ...], bound: int) -> Callable[..., Any]:
    """A function with its calls marked; `self` and `cls` are no arguments of which rows speak."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return marked_call(rows, functools.partial(function, *args[:bound]), args[bound:], kwargs)

    return call


def functions_of(table: Iterable[Row]) -> tuple[Function, ...]:
    """The functions that rows name, each once with all of its rows.

    Raises:
        PortError: a module that cannot be imported, or that has no such function.
    """
    by_place = by_path(row for row in table if row.is_function)
    return tuple(_found(path, rows) for path, rows in by_place.items())


@contextmanager
def all_replaced(functions: Iterable[Function]) -> Iterator[None]:
    """All functions of a table have their calls marked."""
    with ExitStack() as stack:
        for function in functions:
            stack.enter_context(function.replaced())
        yield


def _found(path: str, rows: tuple[Row, ...]) -> Function:
    module_name, _, name = path.partition(":")
    owner: Any
    try:
        owner = importlib.import_module(module_name)
    except Exception as error:
        problem = "a row of the port's table names a module that cannot be imported"
        found = f"{type(error).__name__}: {first_line(error)}"
        hint = "correct the row: it names the module whose own name for the function is looked up at the call"
        raise PortError(problem, path, "package.module:function", found, hint=hint) from error
    *classes, last = name.split(".")
    for part in classes:
        owner = getattr(owner, part, None)
    held = _held(owner, last)
    if not callable(getattr(owner, last, None)) or isinstance(held, property):
        problem = "a row of the port's table names a function that its module does not have"
        hint = "correct the row: it names the module whose own name for the function is looked up at the call"
        found = f"in {module_name}: {_callables(owner)}" if held is None else type(held).__name__
        raise PortError(problem, path, "a function, or a method of a class", found, hint=hint)
    return Function(path, owner, last, rows)


def _held(owner: Any, name: str) -> Any:
    lookup = inspect.getattr_static if inspect.isclass(owner) else getattr
    return lookup(owner, name, None)


def _callables(owner: Any) -> str:
    kinds = (staticmethod, classmethod)
    held = {} if owner is None else vars(owner)
    names = [name for name, value in held.items() if inspect.isfunction(value) or isinstance(value, kinds)]
    return ", ".join(name for name in names if not name.startswith("__")) or "no functions"


def bound_elsewhere(function: Function) -> tuple[str, ...]:
    """Where else a function is bound: the names that other modules have for it."""
    held = function.held
    names = [
        f"{name}:{attribute}"
        for name, module in list(sys.modules.items())
        for attribute, value in list(getattr(module, "__dict__", {}).items())
        if value is held and (module, attribute) != (function.owner, function.name)
    ]
    return tuple(sorted(names)[:MOST_NAMED])
