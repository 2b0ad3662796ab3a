"""A function that returns its intermediates in a dict, as a port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array

from harness.architecture import Config
from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.tracing.program import Ids, Mask, Traced


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
                raise PortError(
                    "a function's intermediates have keys, not items or arguments, and no calls that could be cut",
                    where=row,
                    expected="'layers.{i}.q', or a function: 'my_model.rope:apply_rope'",
                    hint="join the keys of nested dicts and lists by dots",
                )
            if self.eager and row.kind not in self.recorded_only:
                raise PortError(
                    "a function that is run eagerly returns its intermediates when it has gone on with them",
                    where=row,
                    expected="a function's row, whose value is replaced as it comes: 'my_model.rope:apply_rope'",
                    hint=f"name the function that makes it, or declare recorded_only = ({row.kind!r},)",
                )

    def run(self, input_ids: Ids, positions: Ids, mask: Mask) -> tuple[Array, Mapping[str, Any]]:
        """Returns logits [batch, position, vocab], and the intermediates."""
        raise NotImplementedError

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask) -> Traced:
        logits, intermediates = self.run(input_ids, positions, mask)
        leaves = jax.tree_util.tree_leaves_with_path(intermediates)
        found = {".".join(_key(part) for part in path): value for path, value in leaves}
        for row in self.rows:
            if row.path not in found:
                raise PortError(
                    "the function returns no intermediate of that key",
                    where=row.path,
                    expected=", ".join(found) or "intermediates",
                    hint="correct the port's table: keys of nested dicts and lists are joined by dots",
                )
        return logits, {row.tap: found[row.path] for row in self.rows}


def _key(part: Any) -> str:
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))
