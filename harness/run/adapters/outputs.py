"""Items of what a sub-module or a function returns: found, and replaced in an object of the same type.

A named array of Haliax stands for its array, whose axes lie as they lie in it. Haliax is not imported.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import Array

BARE = (0, -1)  # the items that an array which comes alone is: (x, cache), or x where there is no cache
MISSING = object()


def is_named(value: object) -> bool:
    haliax = sys.modules.get("haliax")  # where it is not imported there is nothing of it
    return haliax is not None and isinstance(value, haliax.NamedArray)


def of_array(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` of an array; of a named array one with the same axes, with `change` of its array."""
    return type(value)(change(value.array), value.axes) if is_named(value) else change(value)


def is_array(value: object) -> bool:
    """Whether it is an array, or a named one, which stands for it."""
    return isinstance(value, (Array, np.ndarray)) or is_named(value)


def item_of(result: Any, item: int | str | None) -> Any:
    """An item, a key or an attribute of a result, or all of it; `MISSING` where it has none of that name."""
    if item is None or (item in BARE and is_array(result)):
        return result
    if isinstance(result, Mapping):
        return next((result[key] for key in (item, str(item)) if key in result), MISSING)
    if isinstance(item, int):
        holds = isinstance(result, (tuple, list)) and -len(result) <= item < len(result)
        return result[item] if holds else MISSING
    return MISSING if is_array(result) else getattr(result, item, MISSING)


def with_item(result: Any, item: int | str | None, value: Any) -> Any:
    """The result with another value in the place of an item; an object of the type that it had.

    Returns `MISSING` where such an object cannot be made.
    """
    if item is None or is_array(result):
        return value
    try:
        made = _copied(result, item, value)
    except Exception:  # whatever the type does not allow
        return MISSING
    return made if type(made) is type(result) and item_of(made, item) is value else MISSING


def _copied(result: Any, item: int | str, value: Any) -> Any:
    if isinstance(result, Mapping):
        return _mapping(result, item if item in result else str(item), value)
    if isinstance(item, int):
        items = list(result)
        items[item] = value
        if hasattr(result, "_fields"):  # a named tuple
            return type(result)(*items)
        return _with_attributes_of(result, type(result)(items))
    if hasattr(result, "_replace"):
        return result._replace(**{item: value})
    made = copy.copy(result)
    object.__setattr__(made, item, value)  # frozen dataclasses too
    return made


def _mapping(result: Any, key: Any, value: Any) -> Any:
    made = copy.copy(result)
    try:
        made[key] = value
    except (TypeError, ValueError):  # flax's FrozenDict
        return result.copy({key: value})
    if getattr(made, "__dict__", {}).get(key, value) is not value:  # a key that is an attribute as well
        object.__setattr__(made, key, value)
    return made


def _with_attributes_of(result: Any, made: Any) -> Any:
    for name, held in getattr(result, "__dict__", {}).items():
        object.__setattr__(made, name, held)
    return made


def described(result: Any) -> str:
    """What a result is, and what it has, for a message."""
    kind = f"a {type(result).__name__}"
    if isinstance(result, Mapping):
        return f"{kind} with keys {', '.join(map(str, result))}"
    if hasattr(result, "_fields"):
        return f"{kind} with {', '.join(result._fields)}"
    if isinstance(result, (tuple, list)):
        return f"{kind} of {', '.join(type(x).__name__ for x in result)}"
    fields = [name for name in getattr(result, "__dict__", {}) if not name.startswith("_")]
    return f"{kind} with {', '.join(fields)}" if fields and not is_array(result) else kind
