"""One call of a sub-module or a function: its taps marked, or whatever floats it is given and returns.

Arguments are marked before it, results after it. The second is for who looks for places of taps
(`harness.run.proposing`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from harness.errors import PortError
from harness.run.adapters.layout import REST
from harness.run.adapters.outputs import MISSING, described, is_array, is_named, item_of, of_array, with_item
from harness.run.adapters.routed import marked_choice
from harness.run.adapters.running import running, while_running
from harness.run.adapters.table import Row
from harness.run.tracing.mark import mark

_WATCHING: ContextVar[bool] = ContextVar("watching", default=False)
APART = "\t"  # in no path, and in no name of an argument


def marked_call(
    rows: Iterable[Row], call: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a sub-module or a function with its taps marked: arguments before, results after.

    Args:
        rows: of its path. Those that are `in` another place count where that is running; which of
            several calls a row means is decided when all have been made (`numbering.py`).
    """
    rows = tuple(rows)
    if is_watching() and rows:
        return watched_call(rows[0].path, call, args, kwargs)
    here = {row.site: row for row in rows if row.tap and (row.scope is None or row.scope in running())}
    arguments, named = list(args), dict(kwargs)
    for row in here.values():
        if isinstance(row.argument, int) and row.argument < len(arguments):
            arguments[row.argument] = marked_array(row, _array(row, arguments[row.argument]))
        elif isinstance(row.argument, str) and row.argument in named:
            named[row.argument] = marked_array(row, _array(row, named[row.argument]))
        elif row.argument is not None:
            problem = "a sub-module or function is not given the argument that the port's table names"
            given = f"{len(arguments)} positional arguments, and {', '.join(named) or 'none'} by name"
            hint = "correct the table: arguments are named as the model's code passes them"
            raise PortError(problem, row, f"argument {row.argument}", given, hint=hint)
    with while_running(row.path for row in rows if not row.tap):
        result = call(*arguments, **named)
    for row in here.values():
        if row.argument is None:
            result = _with_marked(row, result)
    return result


def marked_array(row: Row, value: Any) -> Any:
    """A value marked as a row's tap; of what is padded both parts."""

    def of(array: Any) -> Any:
        if row.cut is None:
            return mark(row.site, array)
        left, rest = row.cut.taken(array)
        return row.cut.put_back(mark(row.site, left), mark(row.site + REST, rest))

    return of_array(of, value)


def _array(row: Row, value: Any) -> Any:
    if not is_array(value):
        problem = "an argument is no array where the port's table says so"
        raise _other(problem, row, "an array", value, "name the argument that is the tap")
    return value


def _with_marked(row: Row, result: Any) -> Any:
    if row.routed is not None:
        return marked_choice(*row.routed, functools.partial(mark, row.site), result, row)
    value = item_of(result, row.item)
    if not is_array(value):
        problem = "a sub-module or function does not return an array where the port's table says so"
        hint = "name the item: 'path[1]' is item 1 of a tuple, 'path[hidden]' an entry of a dict, or a field"
        raise _other(problem, row, "an array", result, hint)
    marked = with_item(result, row.item, marked_array(row, value))
    if marked is MISSING:
        problem = "an item of what a sub-module or function returns cannot be replaced"
        expected = "a tuple, a list, a mapping or an object that can be copied with another value in that place"
        hint = "name a place where the value is an array by itself: an argument of what is given it, say"
        raise _other(problem, row, expected, result, hint)
    return marked


def _other(problem: str, row: Row, expected: str, value: Any, hint: str) -> PortError:
    """The refusal of a value that is another one than its row says."""
    return PortError(problem, row, expected, described(value), hint=hint)


@dataclass(frozen=True)
class Site:
    """Where a value was seen.

    Attributes:
        path: of the sub-module, or of the function, as rows have it.
        field: `(0)` or `(x)` for an argument, `[1]` or `[key]` for an item; empty for all that is returned.
        inside: the paths of what was running, outermost first.
    """

    path: str
    field: str
    inside: tuple[str, ...]

    def __str__(self) -> str:
        return APART.join((self.path, self.field, *self.inside))

    @classmethod
    def read(cls, text: str) -> Site:
        """The inverse of `str`."""
        path, field, *inside = text.split(APART)
        return cls(path, field, tuple(inside))


def is_watching() -> bool:
    return _WATCHING.get()


@contextmanager
def watching() -> Iterator[None]:
    """While this lasts calls mark all that goes in and comes out, whatever the rows say."""
    token = _WATCHING.set(True)
    try:
        yield
    finally:
        _WATCHING.reset(token)


def watched_call(path: str, call: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a sub-module or a function with every float array marked that it is given or returns."""
    inside = running()

    def seen(field: str, value: Any) -> Any:
        return of_array(lambda array: mark(str(Site(path, field, inside)), array), value)

    arguments = [seen(f"({n})", x) if _is_value(x) else x for n, x in enumerate(args)]
    named = {name: seen(f"({name})", x) if _is_value(x) else x for name, x in kwargs.items()}
    with while_running([path]):
        result = call(*arguments, **named)
    if _is_value(result):
        return seen("", result)
    for item in _items(result):
        value = item_of(result, item)
        if _is_value(value):
            replaced = with_item(result, item, seen(f"[{item}]", value))
            result = result if replaced is MISSING else replaced
    return result


def _is_value(value: Any) -> bool:
    """Whether it is an array of floats that is computed: constants are no taps."""
    array = value.array if is_named(value) else value
    return is_array(value) and isinstance(array, Tracer) and bool(jnp.issubdtype(array.dtype, jnp.floating))


def _items(result: Any) -> list[int | str]:
    """The items of a result that a row can name."""
    if isinstance(result, Mapping):
        return [key for key in result if str(key).isidentifier() or isinstance(key, int)]
    if isinstance(result, (tuple, list)):
        return list(getattr(result, "_fields", range(len(result))))
    return [name for name in getattr(result, "__dict__", {}) if not name.startswith("_")]
