"""A function that returns its intermediates in a dict, as a port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import Array

from harness.architecture import Config
from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.caches import named_leaves
from harness.run.adapters.calls import is_watching
from harness.run.tracing.program import Ids, Mask


class FunctionPort(AdaptedPort):
    """A port of a function. Write `load`, which ends in `return cls(config, dtype)`, and `run`.

    The left side of the table is the intermediate's key; keys of nested dicts and lists are joined by dots:
    `layers.{i}.q`. What a scan stacks is one key for all layers: `q` -> `layers.{i}.q`. In replay the golden goes
    on in the place of the very value that the function returns. Rows of functions that are called inside
    (`my_model.rope:apply_rope`) stand beside them; a port that has only those returns logits and `{}`.
    """

    watches = True

    def __init__(self, config: Config, dtype: Any) -> None:
        super().__init__(config, dtype)
        for row in self.rows:
            if str(row) != row.path or row.cut is not None or not row.tap:
                problem = (
                    "a function's intermediates have keys, not items or arguments, and no calls that could be cut"
                )
                expected = "'layers.{i}.q', or a function: 'my_model.rope:apply_rope'"
                raise PortError(problem, row, expected, hint="join the keys of nested dicts and lists by dots")

    def run(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Any]]:
        """Returns logits [batch, position, vocab], or with a cache (logits, cache); and the intermediates."""
        raise NotImplementedError

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        returned, intermediates = self.run(input_ids, positions, mask, *cache)
        leaves = named_leaves(intermediates)
        if is_watching():
            return returned, leaves
        for row in self.rows:
            if row.path not in leaves:
                problem = "the function returns no intermediate of that key"
                hint = "correct the port's table: keys of nested dicts and lists are joined by dots"
                raise PortError(problem, row.path, ", ".join(leaves) or "intermediates", hint=hint)
        return returned, {row.tap: leaves[row.path] for row in self.rows}
