"""Bugs of the mask: which key a query may see, and how the others are hidden."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from harness.mutants.mutant import Mutant, OperationChange, kinds
from harness.mutants.needs import LEFT_PADDING, PAIR, at_least, values
from harness.run.operations import Probs, allowed, wide

CAUSAL = "key <= query, and no padding"
HIDDEN = "what is not allowed has probability 0"
WINDOW = 512
Mask = Bool[Array, "batch position"]
Allowed = Bool[Array, "batch 1 position key"]


def _from_indices(mask: Mask, see: Callable[[Array, Array], Array]) -> Allowed:
    query, key = jnp.arange(mask.shape[1])[:, None], jnp.arange(mask.shape[1])[None]
    return see(query, key)[None, None] & mask[:, None, None, :]


def _everything(mask: Mask) -> Allowed:
    return _from_indices(mask, lambda query, key: jnp.broadcast_to(True, (len(query), len(query))))


def _strictly_before(mask: Mask) -> Allowed:
    return _from_indices(mask, lambda query, key: key < query)


def _one_ahead(mask: Mask) -> Allowed:
    return _from_indices(mask, lambda query, key: key <= query + 1)


def _after(mask: Mask) -> Allowed:
    return _from_indices(mask, lambda query, key: key >= query)


def _padding_too(mask: Mask) -> Allowed:
    return jnp.broadcast_to(allowed(jnp.ones_like(mask)), allowed(mask).shape)


def _windowed(mask: Mask) -> Allowed:
    return _from_indices(mask, lambda query, key: (key <= query) & (key > query - WINDOW))


def _softmax(scores: Probs, hidden: Array) -> Probs:
    return jax.nn.softmax(hidden.astype(wide(scores.dtype)), axis=-1).astype(scores.dtype)


def _minus_infinity(scores: Probs, allowed: Allowed) -> Probs:
    return _softmax(scores, jnp.where(allowed, scores, -jnp.inf))


def _minus_ten_thousand(scores: Probs, allowed: Allowed) -> Probs:
    return _softmax(scores, jnp.where(allowed, scores, scores - 1e4))


def _minus_ten(scores: Probs, allowed: Allowed) -> Probs:
    return _softmax(scores, jnp.where(allowed, scores, scores - 10))


def _zero(scores: Probs, allowed: Allowed) -> Probs:
    return _softmax(scores, jnp.where(allowed, scores, 0))


def _added(scores: Probs, allowed: Allowed) -> Probs:
    return _softmax(scores, scores + allowed.astype(scores.dtype))


MUTANTS = (
    Mutant(
        "causal_missing",
        wrong="every key that is no padding",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _everything}, unmasks=True),
        needs=(PAIR,),
        seen=(
            "https://github.com/osaurus-ai/vmlx-swift/pull/185",
            "https://github.com/unslothai/unsloth-zoo/pull/963",
            "https://github.com/huggingface/transformers/pull/41966",
        ),
    ),
    Mutant(
        "causal_strict",
        wrong="key < query",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _strictly_before}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/flashinfer-ai/flashinfer/pull/348",),
    ),
    Mutant(
        "causal_one_ahead",
        wrong="key <= query + 1",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _one_ahead}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/flashinfer-ai/flashinfer/pull/348",),
    ),
    Mutant(
        "causal_transposed",
        wrong="key >= query",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _after}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/41966",),
    ),
    Mutant(
        "padding_seen",
        wrong="key <= query, padding included",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _padding_too}, unmasks=True),
        needs=(LEFT_PADDING,),
        seen=(
            "https://github.com/lucidrains/x-transformers/issues/187",
            "https://github.com/AI-Hypercomputer/maxtext/pull/4929",
        ),
    ),
    Mutant(
        "window_512",
        wrong="query - 512 < key <= query: a sliding window that the config switches off",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _windowed}, unmasks=True),
        needs=(at_least(WINDOW + 1),),
        seen=(
            "https://github.com/huggingface/transformers/pull/35691",
            "https://github.com/axolotl-ai-cloud/axolotl/pull/732",
            "https://github.com/InternLM/lmdeploy/pull/3614",
        ),
    ),
    Mutant(
        "mask_minus_infinity",
        wrong="s = -infinity, so that a row without any key is NaN",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": _minus_infinity}, unmasks=True),
        needs=(LEFT_PADDING,),
        seen=(
            "https://github.com/huggingface/transformers/pull/17306",
            "https://github.com/tracel-ai/burn/pull/4697",
            "https://github.com/unslothai/unsloth/issues/9708",
        ),
    ),
    Mutant(
        "mask_minus_10000",
        wrong="s - 10,000",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": _minus_ten_thousand}, unmasks=True),
        needs=(
            PAIR,
            values(
                "no hidden score is within 10,000 of the largest allowed one, beyond which exp() is 0 anyway",
                "weights with attention scores beyond 9,000",
            ),
        ),
        seen=("https://github.com/huggingface/transformers/pull/17306",),
    ),
    Mutant(
        "mask_minus_10",
        wrong="s - 10",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": _minus_ten}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/17306",),
    ),
    Mutant(
        "mask_multiplied",
        wrong="s 0, before the softmax",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": _zero}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/17306",),
    ),
    Mutant(
        "mask_added_as_bool",
        wrong="s + 1 where allowed, s + 0 elsewhere",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=OperationChange({"probabilities": _added}, unmasks=True),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/41966",),
    ),
)
