"""What a layer of the built-in decoder does: attention and MLP on the residual stream, with their norms."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jaxtyping import Array

from harness.run.arithmetic import normed
from harness.run.cache import Past
from harness.run.layer import Layer, norm
from harness.run.operations import Heads, Hidden, unchanged

Block = Callable[[Hidden], Hidden]


def through(layer: Layer, x: Hidden, past: Past | None) -> tuple[Hidden, Past | None]:
    """The residual stream that leaves the layer, and the cache with this call in it."""

    def attend(read: Hidden) -> Hidden:
        nonlocal past
        update, past = _attention(layer, read, past)
        return update

    mlp = functools.partial(_mlp, layer)
    if layer.sparse:
        from harness.run.mixture import of_experts, tokens_of  # few models have them

        mlp = functools.partial(of_experts, layer, tokens_of(layer.mask, x.shape[1], past))
    if layer.arch.placement.startswith("parallel"):
        return _side_by_side(layer, x, attend, mlp), past
    x = layer.tap("resid_mid", _added(layer, x, attend, "attn"))
    return layer.tap("resid_post", _added(layer, x, mlp, "mlp")), past


def _side_by_side(layer: Layer, x: Hidden, attend: Block, mlp: Block) -> Hidden:
    """Attention and MLP of one residual stream, which is left with both."""
    ops, tap, two = layer.ops, layer.tap, layer.arch.placement == "parallel_two"
    read = tap("attn_norm", layer.norm("attn_norm", x))
    update = ops.residual_scale(attend(read))
    again = functools.partial(layer.norm, "mlp_norm" if two else "attn_norm")
    read = ops.read_beside(x, update, again, None if two else read)
    from_mlp = ops.residual_scale(mlp(tap("mlp_norm", read) if two else read))
    return tap("resid_post", ops.parallel_residual(x, update, from_mlp))


def _added(layer: Layer, x: Hidden, block: Block, kind: str) -> Hidden:
    """The residual stream with what a block makes of it, attention or MLP with the norms that it has."""
    ops, tap, before, after = layer.ops, layer.tap, f"{kind}_norm", f"{kind}_post_norm"
    first, last = layer.arch.placement != "post", layer.arch.placement != "pre"
    elsewhere = functools.partial(_usual_norm, layer, after if last else before)
    read = tap(before, layer.norm(before, x)) if first else ops.read_unnormed(x, elsewhere)
    update = block(read)
    update = tap(after, layer.norm(after, update)) if last else ops.added_unnormed(update, elsewhere)
    residual = ops.attn_residual if kind == "attn" else ops.mlp_residual
    return ops.left_unnormed(residual(ops.carried(x, read), ops.residual_scale(update)), elsewhere)


def _attention(layer: Layer, x: Hidden, past: Past | None) -> tuple[Hidden, Past | None]:
    arch, ops, tap = layer.arch, layer.ops, layer.tap
    if arch.mla is not None:
        from harness.run.latent import latent_attention  # few models have it

        return latent_attention(layer, arch.mla, x, past)
    q = tap("q", ops.split_heads(layer.linear("q", x), arch.heads))  # [B, S, Q D] -> [B, S, Q, D]
    k = tap("k", ops.split_heads(layer.linear("k", x), arch.kv_heads))
    v = tap("v", ops.split_heads(layer.linear("v", x), arch.kv_heads))
    turning = layer.turning(x.dtype)
    q = ops.norm_then_turn(q, _head_norm(layer, "q_norm"), turning(ops.rotate_q))
    k = ops.norm_then_turn(k, _head_norm(layer, "k_norm"), turning(ops.rotate_k))
    q, k = tap("q_rope", ops.grow_q(q, layer.positions)), tap("k_rope", ops.grow_k(k, layer.positions))
    if past is not None:  # [B, S, K, D] -> [B, T, K, D]
        k = tap("cache_k", ops.write_k(past.held["cache_k"], k, past.filled))
        v = tap("cache_v", ops.write_v(past.held["cache_v"], v, past.filled))
        past = Past({"cache_k": k, "cache_v": v}, past.filled)
    groups, sink = arch.heads // arch.kv_heads, layer.vector("sinks")
    scores = ops.score_cap(ops.scores(q, ops.repeat_k(k, groups)))  # [B, Q, S, T]
    sinks = () if sink is None else (sink,)
    probs = tap("probs", ops.probabilities(scores, layer.allowed(x.shape[1], past), *sinks))
    context = tap("context", ops.context(probs, ops.repeat_v(v, groups)))  # [B, S, Q, D]
    return tap("attn_out", layer.linear("attn_out", ops.join_heads(context))), past


def _mlp(layer: Layer, x: Hidden) -> Hidden:
    tap, ops = layer.tap, layer.ops
    if layer.arch.gated:
        gate = tap("gate", layer.linear("gate", x))
        act = ops.gated(gate, tap("up", layer.linear("up", x)))
    else:
        act = ops.activated(tap("up", layer.linear("up", x)))
    return tap("mlp_out", layer.linear("mlp_out", tap("act", act)))


def _usual_norm(layer: Layer, kind: str, x: Hidden) -> Hidden:
    """The norm that the model has in a place, whatever stands there in `ops`."""
    return norm(normed(layer.arch.norm), layer.arch.norm, x, *layer.parameters(kind))


def _head_norm(layer: Layer, kind: str) -> Callable[[Heads], Heads]:
    """The norm of queries or keys with its tap; where the model has none, they stay as they are."""
    spec = layer.arch.qk_norm
    if spec is None:
        return unchanged
    made: Callable[..., Array] = functools.partial(norm, getattr(layer.ops, kind), spec)
    return lambda x: layer.tap(kind, layer.ops.norm_heads(x, made, *layer.parameters(kind)))
