"""Flax modules as ports: calls of their sub-modules are marked by path, of nnx in a copy made for the trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax import linen, nnx
from jax import Array

from harness.architecture import Config
from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import is_watching, marked_call
from harness.run.adapters.table import Row, at_paths, by_path
from harness.run.adapters.tree import Methods, ModelPort, child_of, marking, modules_in, placed
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
            object.__setattr__(module, "__class__", marking(module.__class__, tuple(methods.items())))
        return self.run(model, input_ids, positions, mask, *cache), {}


def _places(model: nnx.Module, rows: tuple[Row, ...]) -> list[tuple[Any, Methods]]:
    """Every sub-module that the rows name, with its rows by method."""
    return placed(model, rows, nnx.Module, "__call__", child_of, _names, "nnx.Module")


def _inside(module: nnx.Module) -> Iterable[tuple[Any, Any]]:
    return enumerate(module) if isinstance(module, nnx.List) else vars(module).items()


def _names(node: Any) -> list[str]:
    inside = vars(node).items() if isinstance(node, nnx.Module) and not isinstance(node, nnx.List) else ()
    return [name for name, value in inside if isinstance(value, nnx.Module)]


class LinenPort(AdaptedPort):
    """A port of a linen model. Write `load`, ending in `return cls(model, variables, config, dtype)`, and `run`.

    Paths are linen's own: `layers_0.attn` for a list `layers`, and without a number inside `nn.scan`.
    """

    def __init__(self, model: linen.Module, variables: Mapping[str, Any], config: Config, dtype: Any) -> None:
        super().__init__(config, dtype)
        self.model, self.variables = model, variables
        self._apply = functools.partial(model.apply, variables)
        self._by_path = by_path(self.rows)

    def run(self, apply: Callable[..., Any], input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> Any:
        """Call `apply`, which is `model.apply` with its variables.

        A cache that the model keeps among its variables goes to `self.model.apply`, with `self.variables`.

        Returns:
            Logits [batch, position, vocab], or with a cache (logits, cache).
        """
        raise NotImplementedError

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        def intercept(
            call: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: linen.module.InterceptorContext,
        ) -> Any:
            method = context.method_name
            path = ".".join((*context.module.path, *([] if method == "__call__" else [method])))
            rows = at_paths([path]) if is_watching() else self._by_path.get(path, ())
            return marked_call(rows, call, args, kwargs)

        with linen.intercept_methods(intercept):
            return self.run(self._apply, input_ids, positions, mask, *cache), {}
