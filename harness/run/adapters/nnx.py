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
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row
from harness.run.adapters.tree import Methods, ModelPort, child_of, method_at, modules_in, placed
from harness.run.tracing.program import Ids, Mask


class NnxPort(ModelPort):
    """A port of an nnx model. Write `load`, which ends in `return cls(model, config, dtype)`, and `run`.

    The model itself is never touched: it is split, and merged anew for each trace.
    """

    framework = frozenset({"flax"})

    def __init__(self, model: nnx.Module, config: Config, dtype: Any) -> None:
        if not isinstance(model, nnx.Module):
            problem = "the model of this port is no nnx.Module"
            hint = "other models have ports of their own: LinenPort, EquinoxPort, KerasPort, FunctionPort"
            raise PortError(problem, type(self).__name__, "an nnx.Module", type(model).__name__, hint=hint)
        self._graph, self._state = nnx.split(model)
        super().__init__(model, config, dtype)

    def sub_modules(self) -> list[tuple[str, Any]]:
        return modules_in(self.model, nnx.Module, _inside)

    def _place(self, rows: tuple[Row, ...]) -> list[tuple[Any, Methods]]:
        return _places(self.model, rows)

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


def _places(model: nnx.Module, rows: tuple[Row, ...]) -> list[tuple[Any, Methods]]:
    """Every sub-module that the rows name, with its rows by method."""
    return placed(
        rows, lambda path: method_at(model, path, nnx.Module, "__call__", child_of, _names, "nnx.Module")
    )


def _inside(module: nnx.Module) -> Iterable[tuple[Any, Any]]:
    return enumerate(module) if isinstance(module, nnx.List) else vars(module).items()


def _names(node: Any) -> list[str]:
    inside = vars(node).items() if isinstance(node, nnx.Module) and not isinstance(node, nnx.List) else ()
    return [name for name, value in inside if isinstance(value, nnx.Module)]
