"""One call of a sub-module with its taps marked: arguments before it, results after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jax import Array

from harness.errors import PortError
from harness.run.adapters.table import Row
from harness.run.tracing.mark import mark


def marked_call(
    found: Iterable[Row], call: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a sub-module with its taps marked: arguments before, results after."""
    arguments, named = list(args), dict(kwargs)
    for row in found:
        if isinstance(row.argument, int) and row.argument < len(arguments):
            arguments[row.argument] = mark(row.tap, arguments[row.argument])
        elif isinstance(row.argument, str) and row.argument in named:
            named[row.argument] = mark(row.tap, named[row.argument])
        elif row.argument is not None:
            raise PortError(
                "a sub-module is not given the argument that the port's table names",
                where=f"{row.path}({row.argument})",
                expected=f"argument {row.argument}",
                found=f"{len(arguments)} positional arguments, and {', '.join(named) or 'none'} by name",
                hint="correct the table: arguments are named as the model's code passes them",
            )
    result = call(*arguments, **named)
    for row in found:
        if row.argument is None:
            result = _with_marked(row, result)
    return result


def _with_marked(row: Row, result: Any) -> Any:
    if row.item is None:
        if not isinstance(result, Array):
            raise _not_an_array(row, result)
        return mark(row.tap, result)
    if isinstance(row.item, str) or isinstance(result, dict):
        if not isinstance(result, dict) or not isinstance(result.get(row.item), Array):
            raise _not_an_array(row, result)
        return {**result, row.item: mark(row.tap, result[row.item])}
    if not isinstance(result, (tuple, list)) or row.item >= len(result):
        raise _not_an_array(row, result)
    items = list(result)
    if not isinstance(items[row.item], Array):
        raise _not_an_array(row, result)
    items[row.item] = mark(row.tap, items[row.item])
    if hasattr(result, "_fields"):
        return type(result)(*items)
    return type(result)(items)


def _not_an_array(row: Row, result: Any) -> PortError:
    found = (
        f"a {type(result).__name__} of {', '.join(type(x).__name__ for x in result)}"
        if isinstance(result, (tuple, list))
        else f"a {type(result).__name__}"
        + (f" with keys {', '.join(map(str, result))}" if isinstance(result, dict) else "")
    )
    return PortError(
        "a sub-module does not return an array where the port's table says so",
        where=row.path if row.item is None else f"{row.path}[{row.item}]",
        expected="an array",
        found=found,
        hint="name the item: 'path[1]' is item 1 of a tuple, 'path[hidden]' an entry of a dict",
    )
