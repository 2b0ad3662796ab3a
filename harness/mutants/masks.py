"""Bugs of the mask: which key a query may see, and how the others are hidden."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from harness.mutants.free import COUNTS, decades
from harness.mutants.mutant import FreeValue, Mutant, OperationChange, kinds
from harness.mutants.needs import LEFT_PADDING, PAIR, Need, at_least, values
from harness.run.operations import Probs, allowed, probabilities, wide

NO_SINKS = Need(
    "architecture",
    lambda m: not m.architecture.sinks,
    "a row of hidden keys alone leaves everything to the sink here",
)
CAUSAL = "key <= query, and no padding"
HIDDEN = "what is not allowed has probability 0"
Mask = Bool[Array, "batch key"]
Slots = Int[Array, " position"]
Window = Int[Array, ""]
Allowed = Bool[Array, "batch 1 position key"]


def _from_indices(mask: Mask, slots: Slots, see: Callable[[Array, Array], Array]) -> Allowed:
    query, key = slots[:, None], jnp.arange(mask.shape[1], dtype=slots.dtype)[None]
    return see(query, key)[None, None] & mask[:, None, None, :]


def _everything(mask: Mask, slots: Slots, window: Window) -> Allowed:
    return _from_indices(mask, slots, lambda query, key: jnp.broadcast_to(True, (len(query), key.shape[1])))


def _strictly_before(mask: Mask, slots: Slots, window: Window) -> Allowed:
    return _from_indices(mask, slots, lambda query, key: key < query)


def _last_key(value: float) -> OperationChange:
    """So many after the query; no further back than the window, as it is right."""

    def ahead(mask: Mask, slots: Slots, window: Window) -> Allowed:
        return _from_indices(
            mask, slots, lambda query, key: (key <= query + round(value)) & (key > query - window)
        )

    return OperationChange({"allowed": ahead}, unmasks=True)


def _after(mask: Mask, slots: Slots, window: Window) -> Allowed:
    return _from_indices(mask, slots, lambda query, key: key >= query)


def _padding_too(mask: Mask, slots: Slots, window: Window) -> Allowed:
    return allowed(jnp.ones_like(mask), slots, window)


def _padding_alone(mask: Mask, slots: Slots, window: Window) -> Allowed:
    return allowed(~mask, slots, window)


def _reach(mask: Mask, slots: Slots, window: Window) -> Array:
    """1 where a key may be seen, 2 where it is padding that could be seen otherwise."""
    padding = allowed(~mask, slots, window)
    return jnp.where(padding, 2, allowed(mask, slots, window).astype(jnp.int32))


def _padding_raised(scores: Probs, reach: Array, *sinks: Array) -> Probs:
    """(mask - 1) (-1e9) is added: 0 at tokens, and 1e9 at padding."""
    y = scores + jnp.where(reach == 2, jnp.asarray(1e9, scores.dtype), jnp.asarray(0, scores.dtype))
    return _softmax(jnp.where(reach > 0, y, jnp.finfo(scores.dtype).min), *sinks)


def windowed(window: float, also_wider: bool = True) -> OperationChange:
    """Causal, and in every layer no further back than the window.

    Args:
        also_wider: than the layer's own; otherwise its own stays where it is narrower.
    """

    def inside(mask: Mask, slots: Slots, own: Window) -> Allowed:
        width = jnp.asarray(round(window), slots.dtype)
        return allowed(mask, slots, width if also_wider else jnp.minimum(own, width))

    return OperationChange({"allowed": inside}, unmasks=True)


def _softmax(scores: Probs, *sinks: Array) -> Probs:
    """Of scores of which those of hidden keys are made small already."""
    return probabilities(scores, jnp.broadcast_to(True, scores.shape), *sinks)


def _minus_infinity(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
    return _softmax(jnp.where(allowed, scores, -jnp.inf), *sinks)


def _hidden(by: Callable[[Array, Array], Array], value: float) -> OperationChange:
    """Hidden scores, made otherwise than small: (scores, value) -> scores."""

    def softmax(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
        y = scores.astype(wide(scores.dtype))
        masked = jnp.where(allowed, y, by(y, jnp.asarray(value, y.dtype)))
        return _softmax(masked, *sinks).astype(scores.dtype)

    return OperationChange({"probabilities": softmax}, unmasks=True)


def _less(value: float) -> OperationChange:
    return _hidden(lambda y, less: y - less, value)


def _constant(value: float) -> OperationChange:
    return _hidden(lambda y, less: jnp.full_like(y, -less), value)


def _added(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
    return _softmax(scores + allowed.astype(scores.dtype), *sinks)


WINDOW = FreeValue("window =", windowed, COUNTS, "query - {} < key <= query, in every layer", counts=True)
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
        change=_last_key(1),
        free=FreeValue(
            "last key: query plus", _last_key, (-3, -2, -1, 1, 2, 3, 4), "key <= query + {}", counts=True
        ),
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
        "padding_inverted",
        wrong="key <= query, and only padding",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _padding_alone}, unmasks=True),
        seen=("https://github.com/lucidrains/x-transformers/issues/187",),
    ),
    Mutant(
        "padding_bias_sign",
        wrong="s + (mask - 1) (-1e9): padding is raised above everything, not hidden",
        right=CAUSAL,
        introduced=kinds("probs"),
        change=OperationChange({"allowed": _reach, "probabilities": _padding_raised}, unmasks=True),
        needs=(LEFT_PADDING,),
        seen=("https://github.com/nyu-mll/jiant/pull/465",),
    ),
    *(
        Mutant(
            f"window_{window}",
            wrong=f"query - {window} < key <= query: a sliding window that the config switches off",
            right=CAUSAL,
            introduced=kinds("probs"),
            change=windowed(window, also_wider=False),
            free=WINDOW if window == 512 else None,
            needs=(at_least(window + 1),),
            seen=(
                "https://github.com/huggingface/transformers/pull/35691",
                "https://github.com/axolotl-ai-cloud/axolotl/pull/732",
                "https://github.com/InternLM/lmdeploy/pull/3614",
            ),
        )
        for window in (32, 512)
    ),
    Mutant(
        "mask_minus_infinity",
        wrong="s = -infinity, so that a row without any key is NaN",
        right=HIDDEN,
        introduced=kinds("context"),
        change=OperationChange({"probabilities": _minus_infinity}, unmasks=True),
        needs=(LEFT_PADDING, NO_SINKS),
        seen=(
            "https://github.com/huggingface/transformers/pull/17306",
            "https://github.com/tracel-ai/burn/pull/4697",
            "https://github.com/unslothai/unsloth/issues/9708",
        ),
    ),
    Mutant(
        "mask_minus_100",
        wrong="s - 100",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=_less(100),
        needs=(
            PAIR,
            values(
                "no hidden score exceeds the allowed ones by enough for exp(s - 100) to count",
                "weights with a head whose attention scores differ by 70 and more",
            ),
        ),
        seen=("https://github.com/huggingface/transformers/pull/17306",),
    ),
    Mutant(
        "mask_minus_10",
        wrong="s - 10",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=_less(10),
        free=FreeValue("hidden scores less", _less, decades(-1, 4), "s - {}"),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/17306",),
    ),
    Mutant(
        "mask_multiplied",
        wrong="s 0, before the softmax",
        right=HIDDEN,
        introduced=kinds("probs"),
        change=_constant(0),
        free=FreeValue("hidden scores: minus", _constant, (0.0, *decades(-1, 4)), "s = -{}, before the softmax"),
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
