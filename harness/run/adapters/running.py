"""What of a model is running: the places that rows are `in`, and the calls of functions that were seen there.

JAX keeps what it has traced of a jitted function, and does not run it again: its marks would be those of another
table, or of another layer. So what is running is part of what it keeps it by (`jax.make_user_context`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh

from harness.run.tracing.origins import RUNNING

_RUNNING: ContextVar[tuple[str, ...]] = ContextVar("running", default=())
_TABLE: ContextVar[Hashable] = ContextVar("table", default=None)
_KEPT_BY = jax.make_user_context(None)


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
        found: AbstractContextManager[Any] = jax.set_mesh(mesh)
    except ValueError:
        found = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    return found
