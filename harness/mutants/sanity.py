"""The two sanity phases of an audit: the right decoder must pass, and a forced failure must fail at every tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from harness.errors import PortError
from harness.mutants.mutant import Around, Mutant, OperationChange
from harness.mutants.runs import Deviation
from harness.results import is_wrong

# Each makes the value of a tap by itself; what the others make flows into these.
LAST_BEFORE_A_TAP = (
    *("embed", "attn_norm", "linear", "q_norm", "k_norm", "grow_q", "grow_k", "write_k", "write_v"),
    *("rotate_q", "rotate_k"),
    *("q_latent_norm", "kv_latent_norm", "write_latent", "write_k_pe"),
    *("probabilities", "context", "attn_post_norm", "attn_residual", "parallel_residual"),
    *("router", "corrected", "dense", "experts_out", "shared_act", "experts_sum"),
    *("mlp_norm", "gated", "activated", "mlp_post_norm", "mlp_residual", "final_norm", "head"),
)


def _doubled(operation: Callable[..., Any]) -> Callable[..., Any]:
    # In numpy: JAX would compile a product and a sum for every shape there is.
    return lambda *args: jax.device_put(2 * np.asarray(operation(*args)) + 1)


RIGHT = Mutant("right", wrong="f(x)", right="f(x)", introduced=frozenset(), change=OperationChange({}))
FORCED_FAILURE = Mutant(
    "forced_failure",
    wrong="2 f(x) + 1 at every tap",
    right="f(x)",
    introduced=frozenset(),
    change=OperationChange(dict.fromkeys(LAST_BEFORE_A_TAP, Around(_doubled))),
)


def first_line(error: Exception) -> str:
    """What a mutant raised, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def must_pass(right: Sequence[Deviation], precision: str) -> None:
    """The first phase.

    Raises:
        PortError: a comparison of the right decoder does not match.
    """
    wrong = [seen for seen in right if is_wrong(seen.verdict)]
    if wrong:
        worst = max(wrong, key=lambda seen: seen.margin)
        raise PortError(
            "the right decoder does not match the golden: no mutant can be judged by it",
            where=f"{worst.tap} in case {worst.case}, {precision}, {worst.mode}: {worst.verdict}",
            expected="within the limit",
            found=f"{worst.margin:.2g} times the limit",
            hint="`goldens check` with the same golden and weights must pass first",
        )


def must_fail(right: Sequence[Deviation], failures: Sequence[Deviation], precision: str) -> None:
    """The second phase; of the forced failure, what did not change at all is not there.

    Raises:
        PortError: a comparison that replay makes of the right decoder does not fail.
    """
    failed = {(seen.case, seen.tap) for seen in failures if is_wrong(seen.verdict)}
    passed = [s for s in right if s.mode == "replay" and (s.case, s.tap) not in failed]
    if passed:
        raise PortError(
            "a forced failure passes: at this tap nothing would be caught",
            where=f"{passed[0].tap} in case {passed[0].case}, {precision}",
            expected="2 f(x) + 1 in the place of f(x) to diverge",
            found=f"{len(passed)} comparisons that match",
            hint="look at the noise that this golden records: `goldens show GOLDEN`",
        )
