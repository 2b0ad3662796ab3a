"""Operations that remember: what a candidate does not change is computed once for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import numpy as np

from harness.run.operations import Operations


def remembering(operations: Operations, most: int) -> Operations:
    """The same operations, whose latest results are kept by their arguments.

    Args:
        operations: functions of their arguments alone, to be called outside a trace.
        most: bytes that results, and what they were made of, may take.
    """
    kept = _Kept(most)
    named = {field.name: getattr(operations, field.name) for field in fields(Operations)}
    return Operations(**{name: partial(kept, operation) for name, operation in named.items()})


class _Kept:
    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        # The arguments are kept too: an array counts as itself as long as nothing else can have its place.
        self._kept: OrderedDict[Hashable, tuple[Any, tuple[Any, ...], int]] = OrderedDict()

    def __call__(self, operation: Callable[..., Any], *args: Any) -> Any:
        key = (operation, *map(_key, args))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        result = operation(*args)
        size = sum(getattr(value, "nbytes", 0) for value in (result, *args))
        self._kept[key] = result, args, size
        self._bytes += size
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1][2]
        return result


def _key(value: Any) -> Hashable:
    """Goldens and parameters are the same objects from candidate to candidate; what counts tokens is made anew."""
    if not isinstance(value, np.ndarray | jax.Array):
        return type(value), value
    if np.issubdtype(value.dtype, np.integer) or value.dtype == bool:
        return value.shape, value.dtype.name, np.asarray(value).tobytes()
    return id(value)
