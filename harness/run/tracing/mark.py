"""The primitive that marks a value as a tap, anywhere in traced code: an identity with a name.

A value inside `jax.jit`, `scan`, `vmap` or `remat` cannot be handed over while it is traced. Marked, it can be
found again in the jaxpr, where `evaluate` records it and puts the golden in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

TAP = Primitive("golden_tap")
_SEEN: ContextVar[Callable[[str, jax.Array], jax.Array] | None] = ContextVar("seen", default=None)


def mark(name: str, value: jax.Array) -> jax.Array:
    """Mark a value as the tap `name`; `{i}` in it stands for the iteration of the scan around it."""
    marked: jax.Array = TAP.bind(value, name=name)
    return marked


@contextmanager
def handed_over(on_tap: Callable[[str, jax.Array], jax.Array]) -> Iterator[None]:
    """Outside of a trace marked values are handed over as they come, and what comes back goes on."""
    token = _SEEN.set(on_tap)
    try:
        yield
    finally:
        _SEEN.reset(token)


def _outside(value: jax.Array, *, name: str) -> jax.Array:
    on_tap = _SEEN.get()
    return value if on_tap is None else on_tap(name, jax.numpy.asarray(value))


def _batch(operands: tuple[Any], axes: tuple[int], *, name: str) -> tuple[Any, int]:
    """Under vmap the mapped axis is the batch, and a tap's batch comes first."""
    moved = jax.numpy.moveaxis(operands[0], axes[0], 0)
    return TAP.bind(moved, name=name), 0


TAP.def_impl(_outside)
TAP.def_abstract_eval(lambda value, *, name: value)
batching.primitive_batchers[TAP] = _batch
mlir.register_lowering(TAP, lambda ctx, value, *, name: [value])
