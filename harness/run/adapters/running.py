"""What is in force while a model is traced: which of its places are running, one type of indices, a mesh.

Rows are `in` what is running. JAX keeps what it has traced of a jitted function, and does not run it again: its
marks would be those of another table, or of another layer. So what is running is part of what it keeps it by
(`jax.make_user_context`).

In a float64 check Python's numbers have 64 bits, and a model's own counters 32. `lax.dynamic_update_slice(buffer,
new, (end, 0, 0))` is refused by JAX where `end` is int32 and 0 is int64. In the float32 of which the model was
written both are int32, so that says nothing about the model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from harness.run.tracing.origins import RUNNING

_RUNNING: ContextVar[tuple[str, ...]] = ContextVar("running", default=())
_TABLE: ContextVar[Hashable] = ContextVar("table", default=None)
_KEPT_BY = jax.make_user_context(None)
INDICES = {"dynamic_slice": 1, "dynamic_update_slice": 2}  # of `jax.lax`: which argument they are


def running() -> tuple[str, ...]:
    """The paths of the scopes that are running, outermost first."""
    return _RUNNING.get()


@contextmanager
def while_running(paths: Iterable[str]) -> Iterator[None]:
    """Something runs that rows are `in`."""
    paths = tuple(paths)
    if not paths:
        yield
        return
    entered = (*_RUNNING.get(), *paths)
    token, table = _RUNNING.set(entered), _TABLE.get()
    try:
        with ExitStack() as stack:
            for path in paths:  # variables of the program are found by it when that is finished
                stack.enter_context(jax.named_scope(RUNNING + path))
            if table is not None:  # where no row is a function or a variable nothing is kept by it
                stack.enter_context(_KEPT_BY((table, entered)))
            yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def traced_for(table: Hashable) -> Iterator[None]:
    """A trace for a table: what JAX has kept for another one does not count."""
    token = _TABLE.set(table)
    try:
        with _KEPT_BY((table, ())):
            yield
    finally:
        _TABLE.reset(token)


def on_mesh(mesh: Mesh) -> AbstractContextManager[Any]:
    """`jax.set_mesh`, for a port's `context`; also where the port itself is traced, to see its precision settings.

    Inside a trace JAX refuses `set_mesh`, since what is traced has no devices yet: there it is the mesh's shape.
    """
    try:
        context: AbstractContextManager[Any] = jax.set_mesh(mesh)
    except ValueError:
        context = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    return context


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
