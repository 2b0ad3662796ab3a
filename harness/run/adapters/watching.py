"""Every argument and result of every call marked, for who looks for places of taps (`harness.run.proposing`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from harness.run.adapters.outputs import MISSING, is_array, is_named, item_of, of_array, with_item
from harness.run.adapters.running import running, while_running
from harness.run.tracing.mark import mark

_WATCHING: ContextVar[bool] = ContextVar("watching", default=False)
APART = "\t"  # in no path, and in no name of an argument


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
