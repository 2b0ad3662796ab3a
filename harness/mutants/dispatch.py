"""Bugs of dispatch: experts with room for so many tokens, and what does not fit is dropped.

A row of the batch has room of its own, as in MaxText. Tokens take it in their order.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.between import around
from harness.mutants.mutant import Around, FreeValue, Mutant, OperationChange
from harness.mutants.needs import LEFT_PADDING, at_least, values
from harness.mutants.routing import ROUTING

EVERY = "every token goes to the experts that are chosen for it"


def _within(routing: Array, taking: Array, room: Array) -> Array:
    """[B, S, E] with 0 where an expert has no room for a token any more.

    Args:
        taking: the tokens that take room.
        room: of an expert, by row and expert.
    """
    taken = jnp.cumsum(((routing != 0) & taking[..., None]).astype(jnp.int32), axis=1)
    return jnp.where(taken <= room, routing, jnp.zeros_like(routing))


def capacity(factor: float) -> OperationChange:
    """Room for `factor` times an expert's share of the tokens; padding takes it too."""

    def dispatched(dense: Callable[..., Array]) -> Callable[..., Array]:
        def wrong(x: Array, weights: Array, chosen: Array, tokens: Array) -> Array:
            routing = dense(x, weights, chosen, tokens)
            places = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32)
            length = jnp.where(tokens, places, 0).max(axis=1)[:, None, None]  # of the row, up to its last token
            room = jnp.floor(length * (factor * chosen.shape[-1] / routing.shape[-1])).astype(jnp.int32)
            return _within(routing, jnp.ones_like(tokens), jnp.maximum(room, 1))

        return wrong

    return OperationChange({"dense": Around(dispatched)})


def _taken_by_padding(dense: Callable[..., Array]) -> Callable[..., Array]:
    """As much room as tokens need, and padding takes it too."""

    def wrong(x: Array, weights: Array, chosen: Array, tokens: Array) -> Array:
        routing = dense(x, weights, chosen, tokens)
        needed = ((routing != 0) & tokens[..., None]).sum(axis=1, keepdims=True)
        return _within(routing, jnp.ones_like(tokens), needed)

    return wrong


MUTANTS = (
    Mutant(
        "routing_over_capacity",
        wrong="a token is dropped by an expert that has its share of the tokens already",
        right=EVERY,
        introduced=ROUTING,
        change=capacity(1.0),
        free=FreeValue(
            "capacity factor =",
            capacity,
            (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
            "tokens are dropped by an expert that has {} times its share of them already",
            counts=True,
        ),
        needs=(at_least(4),),
        seen=(
            "https://github.com/deepspeedai/DeepSpeed/pull/7986",
            "https://github.com/huggingface/transformers/issues/36730",
        ),
    ),
    around(
        "routing_room_taken_by_padding",
        "padding takes the room of tokens, which are dropped",
        EVERY,
        {"dense": Around(_taken_by_padding)},
        "https://github.com/NVIDIA/Megatron-LM/pull/5542",
        "https://github.com/marin-community/marin/issues/8953",
        introduced=ROUTING,
        needs=(LEFT_PADDING, values("no token goes where padding goes", "more padding, or more tokens beside it")),
    ),
)
