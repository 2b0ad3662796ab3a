"""Values to try, and what several mutants with a free value are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.mutant import Around, Change, FreeValue, OperationChange, OptionChange

COUNTS = (*range(1, 33), 48, 64, 96, 128, 256, 512, 1024, 4096)
Wrapping = Callable[[Callable[..., Array]], Callable[..., Array]]


def decades(low: float, high: float, each: int = 4) -> tuple[float, ...]:
    """Values between two powers of ten, `each` to a decade."""
    return tuple(float(v) for v in np.logspace(low, high, round((high - low) * each) + 1))


def forms(**forms: Change) -> FreeValue:
    """A bug that is written in several ways, which differ in the last digits or in the direction."""
    changes, names = tuple(forms.values()), tuple(name.replace("_", " ") for name in forms)
    counts = tuple(float(i) for i in range(len(forms)))
    return FreeValue("form", lambda v: changes[round(v)], counts, counts=True, forms=names)


def around_of(operation: str, wrapping: Callable[[float], Wrapping]) -> Callable[[float], Change]:
    """Whatever the operation is, with something done to what comes out of it: value -> change."""
    return lambda value: OperationChange({operation: Around(wrapping(value))})


def having(**options: Any) -> Callable[[Architecture], Architecture]:
    """A decoder with these options."""
    return lambda arch: replace(arch, **options)


def option_of(options: Callable[[float], Callable[[Architecture], Architecture]]) -> Callable[[float], Change]:
    """Another option of the decoder: value -> change."""
    return lambda value: OptionChange(options(value), "the model has that value")


def times(x: Array, factor: float) -> Array:
    return x * jnp.asarray(factor, x.dtype)


def through(x: Array, dtype: DTypeLike = jnp.bfloat16) -> Array:
    """Rounded to a narrower dtype, and as wide as before."""
    return x.astype(dtype).astype(x.dtype)


def rounding(operation: Callable[..., Array], dtype: DTypeLike = jnp.bfloat16) -> Callable[..., Array]:
    """The operation, and what it gives rounded to a narrower dtype."""
    return lambda *args: through(operation(*args), dtype)


def scaling(value: float) -> Wrapping:
    """The operation, and then a factor."""
    return lambda inner: lambda *args: times(inner(*args), value)


def capping(value: float) -> Wrapping:
    """The operation, and then value tanh(x / value)."""

    def capped(x: Array) -> Array:
        limit = jnp.asarray(value, x.dtype)
        return limit * jnp.tanh(x / limit)

    return lambda inner: lambda *args: capped(inner(*args))
