"""Experts in place of the MLP of a layer: where a token goes, how its experts weigh, and what they make of it.

Formulas follow transformers: choice and weights are made wide, and every expert's part is added in the dtype of
the activations, one expert after the other. The part of an expert that a token does not go to is zero, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from harness.families.options import Experts
from harness.families.parameters import experts_of
from harness.run.cache import Past
from harness.run.layer import Layer
from harness.run.operations import Hidden, aligned, linear, wide
from harness.run.tapping import is_asked

Logits = Float[Array, "batch position expert"]
Chosen = Int[Array, "batch position chosen"]
Weights = Float[Array, "batch position chosen"]
Tokens = Bool[Array, "batch position"]
Act = Callable[[Array, Array], Array]


class Apart(NamedTuple):
    """Where what each chosen expert makes of a token is a tap.

    Attributes:
        chosen: how many experts a token goes to.
        tap: of [batch, position, chosen, hidden], in the order of the experts' numbers.
    """

    chosen: int
    tap: Callable[[Array], Array]


class Matrices(NamedTuple):
    """A matrix of every expert, and its bias where there is one: [expert, input, output], [expert, output]."""

    kernel: Float[Array, "expert inputs outputs"]
    bias: Float[Array, "expert outputs"] | None


def router(
    is_wide: bool, x: Hidden, kernel: Float[Array, "hidden expert"], bias: Float[Array, " expert"] | None = None
) -> Logits:
    """x @ kernel + bias, made and kept wide where the family does so."""
    if not is_wide:
        return linear(x, kernel, bias)
    dtype = wide(x.dtype)
    y = jnp.matmul(x.astype(dtype), kernel.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    return y if bias is None else y + aligned(bias, y)


def corrected(logits: Logits, correction: Float[Array, " expert"]) -> Logits:
    """sigmoid(logits) + correction, which is for the choice alone (DeepSeek-V3, 2024)."""
    return jax.nn.sigmoid(logits.astype(wide(logits.dtype))) + aligned(correction, logits)


def grouped(experts: Experts, scores: Logits) -> Logits:
    """Scores of experts outside the best groups are hidden; where there is one group, none is."""
    if experts.chosen_groups == experts.groups:
        return scores
    by_group = scores.reshape(*scores.shape[:-1], experts.groups, -1)  # [B, S, E] -> [B, S, G, E / G]
    best = jax.lax.top_k(by_group, 2 if experts.group_by == "best_two" else 1)[0].sum(axis=-1)
    groups = jax.lax.top_k(best, experts.chosen_groups)[1]
    seen = jax.nn.one_hot(groups, experts.groups, dtype=bool).any(axis=-2)  # [B, S, G]
    return jnp.where(seen[..., None], by_group, -jnp.inf).reshape(scores.shape)


def choose(experts: Experts, scores: Logits) -> Chosen:
    """The experts with the largest scores."""
    return jax.lax.top_k(scores, experts.chosen)[1]


def weigh(experts: Experts, logits: Logits, scores: Logits, chosen: Chosen) -> Weights:
    """The scores of the chosen experts, wide, before they are normed.

    Args:
        scores: what they are chosen by, corrected where a model does so: they do not weigh.
    """
    y = logits.astype(wide(logits.dtype))
    if experts.score == "softmax_of_chosen":
        return jax.nn.softmax(jnp.take_along_axis(y, chosen, axis=-1), axis=-1)
    each = jax.nn.sigmoid(y) if experts.score == "sigmoid" else jax.nn.softmax(y, axis=-1)
    return jnp.take_along_axis(each, chosen, axis=-1)


def renormed(experts: Experts, weights: Weights) -> Weights:
    """Weights of which the sum is 1, where the model norms them."""
    if experts.renormed is None:
        return weights
    return weights / (weights.sum(axis=-1, keepdims=True) + experts.renormed)


def scaled(factor: float, weights: Weights) -> Weights:
    return weights * factor


def dense(experts: Experts, x: Hidden, weights: Weights, chosen: Chosen, tokens: Tokens) -> Logits:
    """The weight of every expert, 0 where it is not chosen; of the dtype of `x` where it is not wide.

    Args:
        tokens: False at padding, which goes to experts as any token does: none of them is ever full.
    """
    each = jax.nn.one_hot(chosen, experts.count, dtype=weights.dtype)  # [B, S, k, E]
    y = (weights[..., None] * each).sum(axis=-2)
    return y if experts.weights_wide else y.astype(x.dtype)


def clamped(alpha: float, limit: float, gate: Array, up: Array) -> Array:
    """(up + 1) gate sigmoid(alpha gate), of a gate and an up within the limits (gpt-oss, 2025)."""
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return (up + 1) * (gate * jax.nn.sigmoid(gate * alpha))


def experts_out(
    x: Hidden,
    routing: Logits,
    gate: Matrices,
    up: Matrices,
    down: Matrices,
    act: Act,
    apart: Apart | None = None,
) -> Hidden:
    """The weighted sum of what every expert makes of a token, expert by expert.

    Args:
        act: of an expert's gate and up.
        apart: where what each of them makes is a tap.
    """
    if apart is not None:
        return _sum_of_chosen(x, routing, (gate, up, down), act, apart)

    def add(total: Hidden, expert: tuple[Logits, Matrices, Matrices, Matrices]) -> tuple[Hidden, None]:
        weight, gate, up, down = expert
        y = linear(act(linear(x, *gate), linear(x, *up)), *down)
        return total + (y * weight[..., None]).astype(total.dtype), None

    each = jnp.moveaxis(routing, -1, 0), gate, up, down  # [B, S, E] -> [E, B, S]
    return jax.lax.scan(add, jnp.zeros_like(x), each)[0]


def _sum_of_chosen(x: Hidden, routing: Logits, parts: tuple[Matrices, ...], act: Act, apart: Apart) -> Hidden:
    """The same sum, of what a tap gives for what the chosen experts make of a token."""
    count = routing.shape[-1]
    numbers = jnp.arange(count)
    last = jnp.where(routing != 0, numbers, numbers + count)  # behind the chosen, where there are too few
    chosen = jnp.sort(last, axis=-1)[..., : apart.chosen]  # [B, S, E] -> [B, S, k]

    def put(made: Array, expert: tuple[Array, Matrices, Matrices, Matrices]) -> tuple[Array, None]:
        number, gate, up, down = expert
        y = linear(act(linear(x, *gate), linear(x, *up)), *down)
        return jnp.where((chosen == number)[..., None], y[..., None, :], made), None

    empty = jnp.zeros((*chosen.shape, x.shape[-1]), x.dtype)
    made = apart.tap(jax.lax.scan(put, empty, (numbers, *parts))[0])
    weights = jnp.take_along_axis(routing, chosen % count, axis=-1)
    total = jnp.zeros_like(x)
    for n in range(apart.chosen):
        total = total + (made[..., n, :] * weights[..., n, None]).astype(total.dtype)
    return total


def gated_shared(shared: Hidden, weight: Float[Array, "batch position single"]) -> Hidden:
    """The shared expert's output, times a sigmoid of the token's own."""
    return jax.nn.sigmoid(weight) * shared


def experts_sum(out: Hidden, shared: Hidden | None = None) -> Hidden:
    """What the experts make of a token, with the shared one's part where there is one."""
    return out if shared is None else out + shared


def of_experts(layer: Layer, tokens: Tokens, x: Hidden) -> Hidden:
    """What the experts of a layer, in place of the MLP, add to the residual stream.

    Args:
        tokens: False at padding.
    """
    experts, ops, tap = experts_of(layer.arch), layer.ops, layer.tap
    routing = _routing(layer, tokens, x)
    apart = (Apart(experts.chosen, partial(tap, "expert_out")),) if is_asked(tap, "expert_out") else ()
    gate, up, down = (Matrices(*layer.parameters(f"experts_{part}")) for part in ("gate", "up", "down"))
    out = tap("experts_out", ops.experts_out(x, routing, gate, up, down, ops.expert_act, *apart))
    if not experts.shared:
        return tap("mlp_out", ops.experts_sum(out))
    act = ops.shared_act(*(tap(kind, layer.linear(kind, x)) for kind in ("shared_gate", "shared_up")))
    shared = tap("shared_out", layer.linear("shared_out", tap("shared_act", act)))
    if experts.shared_gated:
        shared = ops.gated_shared(shared, tap("shared_weight", layer.linear("shared_weight", x)))
    return tap("mlp_out", ops.experts_sum(out, shared))


def _routing(layer: Layer, tokens: Tokens, x: Hidden) -> Logits:
    """The weight of every expert, [B, S, E]."""
    ops, tap, (kernel, bias) = layer.ops, layer.tap, layer.parameters("router_logits")
    logits = scores = tap("router_logits", ops.router(x, kernel, *(() if bias is None else (bias,))))
    correction = layer.vector("router_scores")
    if correction is not None:
        scores = tap("router_scores", ops.corrected(logits, correction))
    chosen = ops.choose(ops.in_groups(scores))
    weights = ops.routing_scale(ops.renormed(ops.weigh(logits, scores, chosen)))
    return tap("routing", ops.dense(x, weights, chosen, tokens))


def tokens_of(mask: Bool[Array, "batch key"], count: int, past: Past | None) -> Tokens:
    """Which of the tokens of a call are no padding; its mask is of all slots of the cache, where there is one."""
    return mask if past is None else jax.lax.dynamic_slice_in_dim(mask, past.filled, count, axis=1)
