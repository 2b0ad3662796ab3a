"""Indices of one type in a float64 check: Python's numbers have 64 bits there, and a model's own counters 32.

`lax.dynamic_update_slice(buffer, new, (end, 0, 0))` is refused by JAX where `end` is int32 and 0 is int64. In the
float32 of which the model was written both are int32, so that says nothing about the model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INDICES = {"dynamic_slice": 1, "dynamic_update_slice": 2}  # of `jax.lax`: which argument they are


@contextmanager
def alike_indices() -> Iterator[None]:
    """While a model is traced, `jax.lax` takes indices of several integer types, as the widest of them."""
    if not jax.config.jax_enable_x64:
        yield
        return
    held = {name: getattr(jax.lax, name) for name in INDICES}
    try:
        for name, function in held.items():
            setattr(jax.lax, name, _taking_mixed(function, INDICES[name]))
        yield
    finally:
        for name, function in held.items():
            setattr(jax.lax, name, function)


def _taking_mixed(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        if "start_indices" in kwargs:
            kwargs = {**kwargs, "start_indices": _alike(kwargs["start_indices"])}
        elif len(given) > at:
            given[at] = _alike(given[at])
        return function(*given, **kwargs)

    return call


def _alike(indices: Any) -> Any:
    if not isinstance(indices, (tuple, list)):
        return indices
    arrays = [jnp.asarray(index) for index in indices]
    types = {array.dtype for array in arrays}
    widest = functools.reduce(np.promote_types, types)  # JAX's own may be strict
    if len(types) < 2 or not np.issubdtype(widest, np.integer):
        return indices
    return type(indices)(array.astype(widest) for array in arrays)
