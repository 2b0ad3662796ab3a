"""Rows that hold for calls through a cache as well: a sub-module may return (x, cache) there and x elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
from jax import Array
from jax.extend.core import Jaxpr

from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.running import traced_for
from harness.run.adapters.table import ROW, To, at_paths, rows
from harness.run.adapters.watching import Site, watching
from harness.run.contained import blaming_the_port
from harness.run.tracing.mark import TAP
from harness.run.tracing.versions import jaxprs_in_params

Shapes = Mapping[tuple[str, str], tuple[int, ...]]  # by path and field


def with_cache(
    table: Mapping[str, str | To], port: AdaptedPort, arguments: Sequence[Array], whole: Shapes, dtype: Any
) -> dict[str, str]:
    """The left sides of a table, with `[0]` or `[-1]` where a call through a cache returns more than x.

    Args:
        arguments: input ids, positions and mask of a whole prompt.
        whole: what was returned of it.
    """
    shapes = _through_cache(port, arguments, dtype) if port.has_cache else {}
    return {left: _left(left, rows({left: to}, port.arch)[0].path, whole, shapes) for left, to in table.items()}


def _left(left: str, path: str, whole: Shapes, shapes: Shapes) -> str:
    match = ROW.fullmatch(left)
    shape = whole.get((path, ""))
    if match is None or match["item"] or match["argument"] or shape is None or (path, "") in shapes:
        return left
    items = [field for where, field in shapes if where == path and field.startswith("[")]
    # What comes alone is the first and the last of its items.
    for item, field in (("[0]", "[0]"), ("[-1]", max(items, default="", key=len))):
        if shapes.get((path, field)) == shape:
            end = match.end("call") if match["call"] else match.end("path")
            return left[:end] + item + left[end:]
    return left


def _through_cache(port: AdaptedPort, arguments: Sequence[Array], dtype: Any) -> Shapes:
    """What is returned where when the prompt goes through a cache; nothing where it cannot: a check says why."""
    watched = port.marking(at_paths(port.paths()))

    def model(*given: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(traced_for(("with a cache", id(watched))))
            stack.enter_context(watching())
            return watched._model(*given)[0]

    try:
        with blaming_the_port("run"), port.context():
            cache = port.init_cache(*arguments[0].shape, dtype)  # type: ignore[attr-defined]
            closed = jax.make_jaxpr(model)(*arguments, cache)
    except PortError:
        return {}
    return {(site.path, site.field): shape for site, shape in _sites(closed.jaxpr)}


def _sites(jaxpr: Jaxpr) -> Iterator[tuple[Site, tuple[int, ...]]]:
    for equation in jaxpr.eqns:
        if equation.primitive is TAP:
            yield Site.read(equation.params["name"]), equation.outvars[0].aval.shape
        for inner in jaxprs_in_params(equation.params):
            yield from _sites(inner)
