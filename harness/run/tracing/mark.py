"""The primitive that marks a value as a tap, anywhere in traced code: an identity with a name.

A value inside `jax.jit`, `scan`, `vmap` or `remat` cannot be handed over while it is traced. Marked, it can be
found again in the jaxpr, where `evaluate` records it and puts the golden in its place.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

TAP = Primitive("golden_tap")


def mark(name: str, value: jax.Array) -> jax.Array:
    """Mark a value as the tap `name`; `{i}` in it stands for the iteration of the scan around it."""
    marked: jax.Array = TAP.bind(value, name=name)
    return marked


def _batch(operands: tuple[Any], axes: tuple[int], *, name: str) -> tuple[Any, int]:
    """Under vmap the mapped axis is the batch, and a tap's batch comes first."""
    moved = jax.numpy.moveaxis(operands[0], axes[0], 0)
    return TAP.bind(moved, name=name), 0


TAP.def_impl(lambda value, *, name: value)
TAP.def_abstract_eval(lambda value, *, name: value)
batching.primitive_batchers[TAP] = _batch
mlir.register_lowering(TAP, lambda ctx, value, *, name: [value])
