"""Bugs of the mask: which key a query may see, and how the others are hidden."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from harness.mutants.free import COUNTS, decades
from harness.mutants.introduced import kinds
from harness.mutants.mutant import FreeValue, Mutant, OperationChange, github
from harness.mutants.needs import LEFT_PADDING, PAIR, at_least, model_has, values
from harness.run.operations import Probs, allowed, probabilities, wide

NO_SINKS = model_has(lambda arch: not arch.sinks, "a row of hidden keys alone leaves everything to the sink here")
WINDOWS = github(
    "huggingface/transformers/pull/35691", "axolotl-ai-cloud/axolotl/pull/732", "InternLM/lmdeploy/pull/3614"
)
Mask = Bool[Array, "batch key"]
Slots = Int[Array, " position"]
Window = Int[Array, ""]
Allowed = Bool[Array, "batch 1 position key"]


def _seen(see: Callable[[Array, Array, Window], Array]) -> OperationChange:
    """Keys by their indices and the query's, and no padding: (query, key, window) -> whether it may be seen."""

    def by_index(mask: Mask, slots: Slots, window: Window) -> Allowed:
        query, key = slots[:, None], jnp.arange(mask.shape[1], dtype=slots.dtype)[None]
        return see(query, key, window)[None, None] & mask[:, None, None, :]

    return OperationChange({"allowed": by_index}, unmasks=True)


def _last_key(value: float) -> OperationChange:
    """So many after the query; no further back than the window, as it is right."""
    return _seen(lambda query, key, window: (key <= query + round(value)) & (key > query - window))


def _padding(taken: Callable[[Mask], Mask]) -> OperationChange:
    """Another mask of padding: that of the case -> what is taken for it."""
    return OperationChange(
        {"allowed": lambda mask, slots, window: allowed(taken(mask), slots, window)}, unmasks=True
    )


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


def _hiding(hide: Callable[[Probs, Allowed], Probs]) -> OperationChange:
    """A softmax over all keys, of scores that are made otherwise where they are hidden."""

    def softmax(scores: Probs, allowed: Allowed, *sinks: Array) -> Probs:
        return _softmax(hide(scores, allowed), *sinks).astype(scores.dtype)

    return OperationChange({"probabilities": softmax}, unmasks=True)


def _hidden(by: Callable[[Array, Array], Array], value: float) -> OperationChange:
    """Hidden scores, made otherwise than small: (scores, value) -> scores."""

    def hide(scores: Probs, allowed: Allowed) -> Probs:
        y = scores.astype(wide(scores.dtype))
        return jnp.where(allowed, y, by(y, jnp.asarray(value, y.dtype)))

    return _hiding(hide)


def _less(value: float) -> OperationChange:
    return _hidden(lambda y, less: y - less, value)


def _constant(value: float) -> OperationChange:
    return _hidden(lambda y, less: jnp.full_like(y, -less), value)


WINDOW = FreeValue("window =", windowed, COUNTS, "query - {} < key <= query, in every layer", counts=True)
causal = partial(Mutant, right="key <= query, and no padding", introduced=kinds("probs"), needs=(PAIR,))
hidden = partial(Mutant, right="what is not allowed has probability 0", introduced=kinds("probs"), needs=(PAIR,))
MUTANTS = (
    causal(
        "causal_missing",
        wrong="every key that is no padding",
        change=_seen(lambda query, key, window: jnp.broadcast_to(True, (len(query), key.shape[1]))),
        seen=github(
            "osaurus-ai/vmlx-swift/pull/185",
            "unslothai/unsloth-zoo/pull/963",
            "huggingface/transformers/pull/41966",
        ),
    ),
    causal(
        "causal_strict",
        wrong="key < query",
        change=_seen(lambda query, key, window: key < query),
        seen=github("flashinfer-ai/flashinfer/pull/348"),
    ),
    causal(
        "causal_one_ahead",
        wrong="key <= query + 1",
        change=_last_key(1),
        free=FreeValue(
            "last key: query plus", _last_key, (-3, -2, -1, 1, 2, 3, 4), "key <= query + {}", counts=True
        ),
        seen=github("flashinfer-ai/flashinfer/pull/348"),
    ),
    causal(
        "causal_transposed",
        wrong="key >= query",
        change=_seen(lambda query, key, window: key >= query),
        seen=github("huggingface/transformers/pull/41966"),
    ),
    causal(
        "padding_seen",
        wrong="key <= query, padding included",
        change=_padding(jnp.ones_like),
        needs=(LEFT_PADDING,),
        seen=github("lucidrains/x-transformers/issues/187", "AI-Hypercomputer/maxtext/pull/4929"),
    ),
    causal(
        "padding_inverted",
        wrong="key <= query, and only padding",
        change=_padding(jnp.logical_not),
        needs=(),
        seen=github("lucidrains/x-transformers/issues/187"),
    ),
    causal(
        "padding_bias_sign",
        wrong="s + (mask - 1) (-1e9): padding is raised above everything, not hidden",
        change=OperationChange({"allowed": _reach, "probabilities": _padding_raised}, unmasks=True),
        needs=(LEFT_PADDING,),
        seen=github("nyu-mll/jiant/pull/465"),
    ),
    *(
        causal(
            f"window_{window}",
            wrong=f"query - {window} < key <= query: a sliding window that the config switches off",
            change=windowed(window, also_wider=False),
            free=WINDOW if window == 512 else None,
            needs=(at_least(window + 1),),
            seen=WINDOWS,
        )
        for window in (32, 512)
    ),
    hidden(
        "mask_minus_infinity",
        wrong="s = -infinity, so that a row without any key is NaN",
        introduced=kinds("context"),
        change=_hiding(lambda scores, allowed: jnp.where(allowed, scores, -jnp.inf)),
        needs=(LEFT_PADDING, NO_SINKS),
        seen=github(
            "huggingface/transformers/pull/17306", "tracel-ai/burn/pull/4697", "unslothai/unsloth/issues/9708"
        ),
    ),
    hidden(
        "mask_minus_100",
        wrong="s - 100",
        change=_less(100),
        needs=(
            PAIR,
            values(
                "no hidden score exceeds the allowed ones by enough for exp(s - 100) to count",
                "weights with a head whose attention scores differ by 70 and more",
            ),
        ),
        seen=github("huggingface/transformers/pull/17306"),
    ),
    hidden(
        "mask_minus_10",
        wrong="s - 10",
        change=_less(10),
        free=FreeValue("hidden scores less", _less, decades(-1, 4), "s - {}"),
        seen=github("huggingface/transformers/pull/17306"),
    ),
    hidden(
        "mask_multiplied",
        wrong="s 0, before the softmax",
        change=_constant(0),
        free=FreeValue("hidden scores: minus", _constant, (0.0, *decades(-1, 4)), "s = -{}, before the softmax"),
        seen=github("huggingface/transformers/pull/17306"),
    ),
    hidden(
        "mask_added_as_bool",
        wrong="s + 1 where allowed, s + 0 elsewhere",
        change=_hiding(lambda scores, allowed: scores + allowed.astype(scores.dtype)),
        seen=github("huggingface/transformers/pull/41966"),
    ),
)
