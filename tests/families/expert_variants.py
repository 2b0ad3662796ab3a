"""Ways to compute a mixture of experts that are right: another dispatch, another order, weights elsewhere."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from harness.run.operations import wide


def biased(y, bias, expert):
    return y if bias is None else y + bias[expert]


def of_one(x, own, expert):
    y = jnp.matmul(x, own.kernel[expert], preferred_element_type=wide(x.dtype)).astype(x.dtype)
    return biased(y, own.bias, expert)


def in_order(order, before, x, routing, gate, up, down, act):
    """Expert by expert in another order; `before`: weighed before the last product and not after it."""
    total = jnp.zeros_like(x)
    for expert in order(routing.shape[-1]):
        weight = routing[..., expert, None].astype(x.dtype)
        inner = act(of_one(x, gate, expert), of_one(x, up, expert))
        total = total + (of_one(inner * weight, down, expert) if before else of_one(inner, down, expert) * weight)
    return total


def sorted_by_expert(x, routing, gate, up, down, act):
    """Every (token, expert) pair by itself, sorted by expert, and added to its token last: a ragged dispatch."""
    count = routing.shape[-1]
    tokens = x.reshape(-1, x.shape[-1])  # [B, S, H] -> [T, H]
    weights = routing.reshape(-1, count)
    token, expert = (jnp.tile(jnp.arange(len(tokens))[:, None], count), jnp.tile(jnp.arange(count), len(tokens)))
    token = token.reshape(-1)
    taken = jnp.argsort(jnp.where(weights.reshape(-1) != 0, expert, count), stable=True)
    token, expert = token[taken], expert[taken]
    weight = weights.reshape(-1)[taken][:, None].astype(x.dtype)

    def product(value, own):
        wider = (one.astype(wide(x.dtype)) for one in (value, own.kernel[expert]))
        return biased(jnp.einsum("ri,rio->ro", *wider).astype(x.dtype), own.bias, expert)

    rows = product(act(product(tokens[token], gate), product(tokens[token], up)), down) * weight
    return jnp.zeros_like(tokens).at[token].add(rows).reshape(x.shape)


def wide_sum(x, routing, gate, up, down, act):
    """All experts at once, the weights and the sum over experts wide."""

    def product(equation, value, own):
        y = jnp.einsum(equation, *(one.astype(wide(x.dtype)) for one in (value, own.kernel))).astype(x.dtype)
        return y if own.bias is None else y + own.bias  # [B, S, E, outputs]

    inner = act(*(product("bsh,ehi->bsei", x, own) for own in (gate, up)))
    each = product("bsei,eih->bseh", inner, down).astype(wide(x.dtype))
    return (each * routing[..., None]).sum(2).astype(x.dtype)


def last_first(choose):
    return lambda scores: choose(scores)[..., ::-1]


def by_sorting(choose):
    return lambda scores: jnp.argsort(-scores, axis=-1)[..., : choose(scores).shape[-1]]


def softmax_of_chosen(weigh):
    """Of a softmax that is normed, the same."""
    return lambda logits, scores, chosen: jax.nn.softmax(
        jnp.take_along_axis(logits.astype(wide(logits.dtype)), chosen, -1), -1
    )


def with_room(dense):
    """A capacity that is large enough."""

    def dispatched(x, weights, chosen, tokens):
        routing = dense(x, weights, chosen, tokens)
        return jnp.where(jnp.cumsum(routing != 0, axis=1) <= routing.shape[1], routing, 0)

    return dispatched


# By name: operations that are replaced, and what is done around others.
OUT = {
    "backwards": partial(in_order, lambda count: range(count)[::-1], False),
    "weighed before the last product": partial(in_order, range, True),
    "sorted by expert": sorted_by_expert,
    "a wide sum": wide_sum,
}
AROUND = {
    "the last of the best first": {"choose": last_first},
    "by sorting": {"choose": by_sorting},
    "softmax of the chosen": {"weigh": softmax_of_chosen},
    "with room for all": {"dense": with_room},
}
