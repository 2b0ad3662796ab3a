"""A Flax linen module as a port: calls of its sub-modules are intercepted and marked by path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen
from jax import Array

from harness.architecture import Config
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import at_paths, by_path
from harness.run.adapters.watching import is_watching
from harness.run.tracing.program import Ids, Mask


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
