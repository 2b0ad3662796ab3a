"""A choice of experts that a model has as weights and indices: the row of a router, or of the top-k in it.

    "jax.lax:top_k in layers.{i}.moe": Routed("layers.{i}.routing", weigh=normed)

The tap has a weight for every expert, so that the order of the chosen ones means nothing. Where the golden's
stands in its place, the model goes on with its experts and weights; elsewhere with what it had, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import top_k  # by a name of its own: the module's may be the row's, and marked
from jaxtyping import Array, Float, Int

from harness.errors import PortError
from harness.run.adapters.outputs import described, is_array

Weights = Float[Array, "... chosen"]


def as_they_are(weights: Weights) -> Weights:
    return weights


def normed(weights: Weights) -> Weights:
    """Weights that are divided by their sum once they are chosen."""
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Routed:
    """The right side of a row whose place returns (weights, indices), [..., chosen], perhaps with more after them.

    Attributes:
        weigh: what the model makes of these weights until they are those of the sum. The golden's weights, put in
            their place, go through the same: it has to leave them as they are, as a norm does.
    """

    tap: str
    weigh: Callable[[Weights], Weights] = as_they_are


def marked_choice(routed: Routed, experts: int, mark: Callable[[Array], Array], result: Any, where: object) -> Any:
    """What a router returned, with its choice marked as the weights of all experts.

    Args:
        mark: given [..., expert], returns what goes on.
        where: of the row, for messages.

    Raises:
        PortError: it did not return weights and indices.
    """
    pair = result if isinstance(result, (tuple, list)) else ()
    arrays = len(pair) >= 2 and all(is_array(array) for array in pair[:2])
    if not arrays or not jnp.issubdtype(pair[1].dtype, jnp.integer):
        problem = "a place whose row is a choice of experts does not return weights and indices"
        hint = "name jax.lax:top_k, or the function that calls it, `in` the router"
        raise PortError(problem, where, "(weights, indices), each [..., chosen]", described(result), hint=hint)
    weights, indices = pair[0], pair[1]
    own = routed.weigh(weights)
    marked = mark(spread(own, indices, experts))
    given, chosen = top_k(marked, indices.shape[-1])
    # Not by what was marked: in replay the golden stands in its place as well.
    changed = (jnp.take_along_axis(marked, indices, axis=-1) != own).any(axis=-1, keepdims=True)
    new = jnp.where(changed, given.astype(weights.dtype), weights), jnp.where(changed, chosen, indices)
    return type(result)((*new, *pair[2:])) if type(result) in (tuple, list) else type(result)(*new, *pair[2:])


def spread(weights: Weights, indices: Int[Array, "... chosen"], experts: int) -> Float[Array, "... expert"]:
    """The weight of every expert, 0 where it is not chosen."""
    each = jax.nn.one_hot(indices, experts, dtype=weights.dtype)  # [..., k, E]
    return (weights[..., None] * each).sum(axis=-2)
