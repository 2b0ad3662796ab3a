"""Operations that remember: what a candidate does not change is computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import numpy as np

from harness.run.operations import WIRING, Operations
from harness.run.recent import Store

HANDED = frozenset({"expert_act"})  # to another operation, which calls it with what is no array yet


def remembering(operations: Operations, most: int) -> Operations:
    """The same operations, whose latest results are kept by their arguments, unless these are operations.

    Args:
        operations: functions of their arguments alone, to be called outside a trace.
        most: bytes that results, and what they were made of, may take.
    """
    store = Store(most)
    named = {field.name: getattr(operations, field.name) for field in fields(Operations)}
    left = WIRING | HANDED
    return Operations(
        **{name: made if name in left else partial(_remembered, store, made) for name, made in named.items()}
    )


def _remembered(store: Store, operation: Callable[..., Any], *args: Any) -> Any:
    def made() -> tuple[Any, int]:
        result = operation(*args)
        # The arguments are kept too: an array counts as itself as long as nothing else can have its place.
        return (result, args), sum(getattr(value, "nbytes", 0) for value in jax.tree.leaves((result, args)))

    return store.get((operation, *map(_key, args)), made)[0]


def _key(value: Any) -> Hashable:
    """Goldens and parameters are the same objects from candidate to candidate; what counts tokens is made anew."""
    if isinstance(value, tuple):
        return type(value), *map(_key, value)
    if not isinstance(value, np.ndarray | jax.Array):
        return type(value), value
    if np.issubdtype(value.dtype, np.integer) or value.dtype == bool:
        return value.shape, value.dtype.name, np.asarray(value).tobytes()
    return id(value)
