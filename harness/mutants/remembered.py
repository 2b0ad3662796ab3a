"""Operations that remember: what a mutant does not change is computed once for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import numpy as np

from harness.run.operations import WIRING, Operations
from harness.run.source import LRUCache

HANDED = frozenset({"expert_act"})  # to another operation, which calls it with what is no array yet
SMALL = 1024  # bytes of an array of numpy's that is told by its numbers: every decoder has frequencies of its own


class Memory(LRUCache):
    """The latest results of operations; it can be told to look away."""

    on = True

    @contextlib.contextmanager
    def active(self, on: bool) -> Iterator[None]:
        """Whether results are looked up, and kept, for a while."""
        self.on, before = on, self.on
        try:
            yield
        finally:
            self.on = before


def remembering(operations: Operations, memory: Memory) -> Operations:
    """The same operations, whose latest results are kept by their arguments, unless these are operations.

    Args:
        operations: functions of their arguments alone, to be called outside a trace.
    """
    named = {field.name: getattr(operations, field.name) for field in fields(Operations)}
    left = WIRING | HANDED
    return Operations(
        **{name: made if name in left else partial(_remembered, memory, made) for name, made in named.items()}
    )


def _remembered(memory: Memory, operation: Callable[..., Any], *args: Any) -> Any:
    def made() -> tuple[Any, int]:
        result = operation(*args)
        # The arguments are kept too: an array counts as itself as long as nothing else can have its place.
        return (result, args), sum(getattr(value, "nbytes", 0) for value in jax.tree.leaves((result, args)))

    return memory.get((operation, *map(_key, args)), made)[0] if memory.on else operation(*args)


def _key(value: Any) -> Hashable:
    """Goldens and parameters are the same objects from mutant to mutant; small arrays and counts are made anew."""
    if isinstance(value, tuple):
        return type(value), *map(_key, value)
    if not isinstance(value, np.ndarray | jax.Array):
        return type(value), value
    small = isinstance(value, np.ndarray) and value.nbytes <= SMALL
    if small or np.issubdtype(value.dtype, np.integer) or value.dtype == bool:
        return value.shape, value.dtype.name, np.asarray(value).tobytes()
    return id(value)
