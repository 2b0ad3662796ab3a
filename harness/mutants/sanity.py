"""The two sanity phases of an audit: the right decoder must pass, and a forced failure must fail at every tap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.mutants.mutant import Mutant, OperationChange
from harness.run.operations import OPERATIONS

# Each makes the value of a tap by itself; what the others make flows into these.
LAST_BEFORE_A_TAP = (
    *("embed", "attn_norm", "linear", "rotate_q", "rotate_k", "probabilities", "context", "attn_residual"),
    *("mlp_norm", "gated", "mlp_residual", "final_norm", "head"),
)


def _doubled(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: 2 * operation(*args) + 1


RIGHT = Mutant("right", wrong="f(x)", right="f(x)", introduced=frozenset(), change=OperationChange({}))
FORCED_FAILURE = Mutant(
    "forced_failure",
    wrong="2 f(x) + 1 at every tap",
    right="f(x)",
    introduced=frozenset(),
    change=OperationChange({name: _doubled(getattr(OPERATIONS, name)) for name in LAST_BEFORE_A_TAP}),
)
