"""Bugs of attention: scale, order of the KV heads, softmax, sinks. Masks are in masks.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from harness.mutants.free import Wrapping, around_of, capping, decades, forms, rounding, through, times
from harness.mutants.introduced import kinds
from harness.mutants.mutant import Around, FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import FINE, GROUPED, PAIR, SEVERAL_KV_HEADS, model_has
from harness.run.operations import Heads, Probs, context, probabilities, scores, wide

KeyValue = Float[Array, "batch position kv_head head_dim"]
Allowed = Bool[Array, "batch 1 position key"]


def _unscaled(q: Heads, k: Heads) -> Probs:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


def _rescaled(value: float) -> Wrapping:
    """The usual scale taken back, and another one in its place, whatever else is done to the scores."""
    return lambda inner: lambda q, k: times(inner(q, k), value * q.shape[-1] ** 0.5)


def _tiled(x: KeyValue, groups: int) -> Heads:
    return jnp.tile(x, (1, 1, groups, 1))


def _first(x: KeyValue, groups: int) -> Heads:
    return jnp.repeat(x[:, :, :1], groups * x.shape[2], axis=2)


def _scores_of_heads(q: Heads, k: KeyValue) -> Float[Array, "batch head position other"]:
    """At every position its heads' queries with its own heads' keys: probabilities of another shape."""
    return jnp.einsum("bqhd,bqod->bhqo", q, k) * q.shape[-1] ** -0.5


def _softmax_of_heads(scores: Float[Array, "batch head position other"], allowed: Allowed, *sinks: Array) -> Array:
    return jax.nn.softmax(scores.astype(wide(scores.dtype)), axis=-1).astype(scores.dtype)


def _mean_of_heads(probs: Float[Array, "batch head position other"], v: KeyValue) -> Heads:
    return jnp.einsum("bhqo,bqod->bqhd", probs, v)


def _scores_of_first(q: Heads, k: KeyValue) -> Probs:
    return scores(*(jnp.broadcast_to(x[:, :, :1], x.shape) for x in (q, k)))


def _context_of_first(probs: Probs, v: KeyValue) -> Heads:
    return context(probs, jnp.broadcast_to(v[:, :, :1], v.shape))


def _softmax(formula: Callable[..., Probs] | Around) -> OperationChange:
    return OperationChange({"probabilities": formula})


def _with_sink(value: float) -> OperationChange:
    """One more key, whose score is `value`, that gives nothing."""

    def softmax(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
        edge = ((0, 0), (0, 0), (0, 0), (0, 1))
        extended = jnp.pad(scores, edge, constant_values=value)
        return probabilities(extended, jnp.pad(allowed, edge, constant_values=True))[..., :-1]

    return _softmax(softmax)


def _narrow(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
    y = jnp.where(allowed, scores.astype(jnp.bfloat16), jnp.finfo(jnp.bfloat16).min)
    for own in sinks:
        column = jnp.broadcast_to(own[:, None, None].astype(y.dtype), (*y.shape[:-1], 1))
        y = jnp.concatenate([y, column], axis=-1)
    return jax.nn.softmax(y, axis=-1)[..., : scores.shape[-1]].astype(scores.dtype)


def _by_hand(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
    y = jnp.where(allowed, scores.astype(jnp.bfloat16), jnp.finfo(jnp.bfloat16).min)
    power = jnp.exp(y - y.max(axis=-1, keepdims=True))
    return (power / power.sum(axis=-1, keepdims=True)).astype(scores.dtype)


def _of_short(scores: Probs, *more: Array) -> Probs:
    return probabilities(through(scores), *more)


NARROW = forms(
    scores_alone=_softmax(_of_short),
    probabilities_alone=_softmax(rounding(probabilities)),
    scores_and_probabilities=_softmax(rounding(_of_short)),
    exp_over_sum=_softmax(_by_hand),
)


def _with_dropout(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
    """One in ten is dropped, always the same ones: a random choice would take a compilation for every length."""
    head, query, key = (jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (1, 2, 3))
    kept = (3 * head + 7 * query + 9 * key) % 10 != 0
    return jnp.where(kept, probabilities(scores, allowed, *sinks) / 0.9, 0)


scale = partial(Mutant, right="q . k / sqrt(head_dim)", introduced=kinds("probs"), needs=(PAIR,))
repeated = partial(
    Mutant,
    right="each KV head serves neighbouring query heads: [k0, k0, k1, k1]",
    introduced=kinds("probs", "context"),
)
softmax = partial(Mutant, right="exp(s) / sum(exp(s))", introduced=kinds("probs"))
MUTANTS = (
    scale(
        "scale_missing",
        wrong="q . k",
        change=OperationChange({"scores": _unscaled}),
        free=FreeValue("scale =", around_of("scores", _rescaled), decades(-3, 2), "{} q . k"),
        seen=github("mlc-ai/mlc-llm/pull/3426", "jax-ml/jax/issues/19450"),
    ),
    scale(
        "scale_twice",
        wrong="q . k / head_dim",
        change=OperationChange({"scores": lambda q, k: _unscaled(q, k) / q.shape[-1]}),
        seen=github("AI-Hypercomputer/maxtext/issues/3138", "microsoft/MInference/issues/69"),
    ),
    scale(
        "scale_of_hidden",
        wrong="q . k / sqrt(heads head_dim)",
        change=OperationChange({"scores": lambda q, k: _unscaled(q, k) * (q.shape[-2] * q.shape[-1]) ** -0.5}),
        seen=github("keras-team/keras-hub/pull/2692"),
    ),
    scale(
        "scores_softcapped",
        wrong="50 tanh(q . k / sqrt(head_dim) / 50), as in Gemma 2",
        change=OperationChange({"scores": capping(50.0)(scores)}),
        free=FreeValue("cap =", around_of("scores", capping), decades(0, 3), "{0} tanh(s / {0})"),
        seen=github("sgl-project/sglang/issues/33915", "EricLBuehler/mistral.rs/pull/1930"),
    ),
    repeated(
        "gqa_tiled",
        wrong="[k0, k1, k0, k1] and [v0, v1, v0, v1]",
        change=OperationChange({"repeat_k": _tiled, "repeat_v": _tiled}),
        needs=(GROUPED, PAIR),
        seen=github("apple/axlearn/pull/842", "onnx/onnx/pull/7274"),
    ),
    repeated(
        "gqa_tiled_values",
        wrong="[k0, k0, k1, k1] and [v0, v1, v0, v1]",
        introduced=kinds("context"),
        change=OperationChange({"repeat_v": _tiled}),
        needs=(GROUPED,),
        seen=github("ekzhang/jax-js/pull/180", "microsoft/onnxscript/pull/2408"),
    ),
    repeated(
        "gqa_first_head_only",
        wrong="every query head reads KV head 0",
        change=OperationChange({"repeat_k": _first, "repeat_v": _first}),
        needs=(SEVERAL_KV_HEADS, PAIR),
        seen=github("ByteDance-Seed/VeOmni/pull/162"),
    ),
    repeated(
        "attention_first_head_only",
        wrong="every head reads head 0 of q, k and v",
        right="each head reads its own",
        change=OperationChange({"scores": _scores_of_first, "context": _context_of_first}),
        needs=(SEVERAL_KV_HEADS, PAIR),
        seen=github("BobMcDear/attorch/issues/14"),
    ),
    # Their probabilities have the right shape where there are as many heads.
    repeated(
        "attention_over_heads",
        wrong="the softmax runs over the heads of one position: heads and positions have changed places",
        right="over the positions of one head",
        change=OperationChange(
            {"scores": _scores_of_heads, "probabilities": _softmax_of_heads, "context": _mean_of_heads}
        ),
        seen=github("huggingface/transformers/issues/41125", "triton-lang/triton/issues/2626"),
    ),
    softmax(
        "probabilities_clipped",
        wrong="clip(softmax(s), 1e-9, 1 - 1e-9): hidden keys have a weight",
        change=OperationChange(
            {"probabilities": lambda *args: jnp.clip(probabilities(*args), 1e-9, 1 - 1e-9)}, unmasks=True
        ),
        needs=(FINE,),
    ),
    softmax(
        "softmax_sink",
        wrong="exp(s) / (1 + sum(exp(s))): a slot of zeros, or a sink, that this model does not have",
        change=_with_sink(0.0),
        free=FreeValue("sink =", _with_sink, (-4.0, -2.0, 0.0, 2.0, 4.0), "exp(s) / (exp({}) + sum(exp(s)))"),
        seen=github("vllm-project/vllm-metal/pull/550", "jax-ml/jax/issues/30964"),
    ),
    softmax(
        "softmax_dropout",
        wrong="dropout(exp(s) / sum(exp(s)), 0.1)",
        change=_softmax(_with_dropout),
        seen=github("ipolharvard/ethos-ares/issues/20", "google/flax/pull/2510"),
    ),
    softmax(
        "softmax_narrow",
        wrong="exp(s) / sum(exp(s)) in bfloat16",
        right="in float32 or wider",
        change=NumericsChange({"probabilities": _narrow}),
        free=NARROW,
        needs=(PAIR,),
        seen=github("osaurus-ai/osaurus/pull/1501", "apple/axlearn/pull/18"),
    ),
)
# A sink is a score of every head's own, of which the probability goes to no key.
SINKS = (
    softmax(
        "sinks_missing",
        wrong="exp(s) / sum(exp(s)): no sink, or what it leaves is divided by its sum",
        right="exp(s) / (exp(sink) + sum(exp(s)))",
        change=_softmax(Around(lambda right: lambda scores, allowed, *sinks: right(scores, allowed))),
        needs=(model_has(lambda arch: arch.sinks, "heads have no sinks here"),),
        seen=github("NVIDIA/TransformerEngine/pull/3551", "vllm-project/vllm-metal/pull/550"),
    ),
)
