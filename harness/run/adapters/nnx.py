"""A Flax nnx module tree as a port: calls of its sub-modules are marked by path, in a copy made for the trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jax import Array

from harness.architecture import Config
from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row
from harness.run.adapters.tree import called
from harness.run.tracing.program import Ids, Mask

FRAMEWORK = frozenset({"flax"})


class NnxPort(AdaptedPort):
    """A port of an nnx model. Write `load`, which ends in `return cls(model, config, dtype)`, and `run`.

    The model itself is never touched: it is split, and merged anew for each trace.

    Raises:
        PortError: the table names a path at which the model has no sub-module.
    """

    def __init__(self, model: nnx.Module, config: Config, dtype: Any) -> None:
        super().__init__(config, dtype)
        if not isinstance(model, nnx.Module):
            raise PortError(
                "the model of this port is no nnx.Module",
                where=type(self).__name__,
                expected="an nnx.Module",
                found=type(model).__name__,
                hint="other models have ports of their own: LinenPort, EquinoxPort, KerasPort, FunctionPort",
            )
        self.model = model
        self._graph, self._state = nnx.split(model)
        _places(model, self.rows)  # a wrong path is refused now, not in the middle of a forward pass

    def paths(self) -> list[str]:
        found: dict[int, tuple[str, Any]] = {}
        _collect(self.model, (), found)
        return [path for where, node in found.values() for path in called(where, node, FRAMEWORK)]

    def run(self, model: Any, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> Any:
        """Call the model; returns logits [batch, position, vocab], or with a cache (logits, cache)."""
        raise NotImplementedError

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        model = nnx.merge(self._graph, self._state, copy=True)
        for module, methods in _places(model, self.rows):
            object.__setattr__(module, "__class__", _marking(module.__class__, tuple(methods)))
            module.golden_rows = _Static(tuple(methods.items()))
        return self.run(model, input_ids, positions, mask, *cache), {}


@dataclass(frozen=True)
class _Static:
    """Rows by method, as an attribute that nnx takes for structure: it goes along through its transforms."""

    rows: tuple[tuple[str, tuple[Row, ...]], ...]


@functools.cache
def _marking(original: Any, methods: tuple[str, ...]) -> Any:
    """A subclass in which the methods mark their arguments and results by the instance's rows."""

    def marked(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(original, name))
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            rows = dict(self.golden_rows.rows)[name]
            # Looked up when it is called: somebody may have replaced it since.
            return marked_call(rows, functools.partial(getattr(original, name), self), args, kwargs)

        return call

    return type(original)(original.__name__, (original,), {name: marked(name) for name in methods})


def _places(model: nnx.Module, rows: tuple[Row, ...]) -> list[tuple[Any, Mapping[str, tuple[Row, ...]]]]:
    """Every sub-module that the rows name, with its rows by method."""
    found: dict[int, tuple[Any, dict[str, tuple[Row, ...]]]] = {}
    for row in rows:
        module, method = _follow(model, row.path)
        methods = found.setdefault(id(module), (module, {}))[1]
        methods[method] = (*methods.get(method, ()), row)
    return list(found.values())


def _follow(model: nnx.Module, path: str) -> tuple[nnx.Module, str]:
    """The sub-module at a path, and which of its methods: the path's last name, or `__call__`."""
    parent, node = None, model
    for part in path.split("."):
        parent, node = node, _child(node, part)
        if node is None:
            raise PortError(
                "the model has nothing at a path of the port's table",
                where=f"{path}, at {part!r}",
                expected="a sub-module, or a method of one",
                found=f"a {type(parent).__name__} with {', '.join(_names(parent)) or 'nothing in it'}",
                hint="correct the path in the table"
                + "; what follows the last layer has a row of its own: 'norm(0)' -> 'layers.{last}.resid_post'"
                * part.isdigit(),
            )
    if isinstance(node, nnx.Module) and callable(node):
        return node, "__call__"
    if isinstance(parent, nnx.Module) and getattr(node, "__self__", None) is parent:
        return parent, path.rpartition(".")[2]
    lacks = "cannot be called" if isinstance(node, nnx.Module) else "is no nnx.Module"
    raise PortError(
        f"what the model has at a path of the port's table {lacks}",
        where=path,
        expected="an nnx.Module that can be called, or a method of one",
        found=type(node).__name__,
        hint="name the sub-module whose output is the tap",
    )


def _collect(node: Any, where: tuple[str, ...], found: dict[int, tuple[str, Any]]) -> None:
    """Every sub-module once, by the first path that leads to it."""
    if isinstance(node, nnx.Module):
        if id(node) in found:
            return
        found[id(node)] = ".".join(where), node
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        inner = node.items()
    elif isinstance(node, (list, tuple, nnx.List)):
        inner = enumerate(node)
    elif isinstance(node, nnx.Module):
        inner = vars(node).items()
    for name, child in inner:
        if isinstance(child, (nnx.Module, Mapping, list, tuple)):
            _collect(child, (*where, str(name)), found)


def _child(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part, node.get(int(part)) if part.isdigit() else None)
    if part.isdigit() and hasattr(node, "__getitem__"):
        return node[int(part)] if int(part) < len(node) else None
    return getattr(node, part, None)


def _names(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if isinstance(node, nnx.Module):
        return [name for name, value in vars(node).items() if isinstance(value, nnx.Module)]
    return [f"0 to {len(node) - 1}"] if hasattr(node, "__len__") and len(node) else []
