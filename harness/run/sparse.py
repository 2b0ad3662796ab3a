"""Experts of a layer, in place of the MLP: which of them a token goes to, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from harness.families.options import Experts
from harness.run.cache import Past
from harness.run.mixture import Apart, Logits, Matrices, Tokens
from harness.run.operations import Hidden, Operations
from harness.run.tapping import TapFunction, is_asked


class OwnExperts(NamedTuple):
    """The parameters of a layer that has experts.

    Attributes:
        linear: of a kind of tap of the shared expert, what its projection makes of an array.
        router: a matrix and its bias, where there is one.
        correction: of the scores, for the choice.
        gate, up, down: of all experts.
    """

    linear: Callable[[str, Array], Array]
    router: tuple[Float[Array, "hidden expert"], Float[Array, " expert"] | None]
    correction: Float[Array, " expert"] | None
    gate: Matrices
    up: Matrices
    down: Matrices


def of_experts(
    experts: Experts, ops: Operations, tap: TapFunction, own: OwnExperts, x: Hidden, tokens: Tokens
) -> Hidden:
    """What the experts of a layer add to the residual stream.

    Args:
        tokens: False at padding.
    """
    routing = _routing(ops, tap, own, x, tokens)
    apart = (Apart(experts.chosen, partial(tap, "expert_out")),) if is_asked(tap, "expert_out") else ()
    out = ops.experts_out(x, routing, own.gate, own.up, own.down, ops.expert_act, *apart)
    out = tap("experts_out", out)
    if not experts.shared:
        return tap("mlp_out", ops.experts_sum(out))
    gate, up = (tap(kind, own.linear(kind, x)) for kind in ("shared_gate", "shared_up"))
    shared = tap("shared_out", own.linear("shared_out", tap("shared_act", ops.shared_act(gate, up))))
    if experts.shared_gated:
        shared = ops.gated_shared(shared, tap("shared_weight", own.linear("shared_weight", x)))
    return tap("mlp_out", ops.experts_sum(out, shared))


def _routing(ops: Operations, tap: TapFunction, own: OwnExperts, x: Hidden, tokens: Tokens) -> Logits:
    """The weight of every expert, [B, S, E]."""
    kernel, bias = own.router
    logits = scores = tap("router_logits", ops.router(x, kernel, *(() if bias is None else (bias,))))
    if own.correction is not None:
        scores = tap("router_scores", ops.corrected(logits, own.correction))
    chosen = ops.choose(ops.in_groups(scores))
    weights = ops.routing_scale(ops.renormed(ops.weigh(logits, scores, chosen)))
    return tap("routing", ops.dense(x, weights, chosen, tokens))


def tokens_of(mask: Bool[Array, "batch key"], count: int, past: Past | None) -> Tokens:
    """Which of the tokens of a call are no padding; its mask is of all slots of the cache, where there is one."""
    return mask if past is None else jax.lax.dynamic_slice_in_dim(mask, past.filled, count, axis=1)
