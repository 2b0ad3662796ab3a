"""The operations of a decoder that runs them outside a trace, one after the other, each compiled by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from harness.families.frequencies import inverse_frequencies, scaled
from harness.run.latent_keys import kept_of_tokens
from harness.run.operations import (
    WIRING,
    Operations,
    join_heads,
    norm_all_heads,
    not_grown,
    split_heads,
    unchanged,
    unused,
)

# Arguments that are no arrays, by operation.
STATIC = {
    "rope_angles": ("dtype",),
    "repeat_k": ("groups",),
    "repeat_v": ("groups",),
    "split_kv": ("nope",),
    "experts_out": ("act",),
}
# Numpy, in float64 whatever the precision, or nothing at all.
LEFT = frozenset({inverse_frequencies, scaled, unchanged, unused, not_grown, kept_of_tokens})
# Nothing is computed: outside a trace numpy looks at the same numbers, and there is no program for every shape.
VIEWS = frozenset({split_heads, join_heads})


@cache
def _compiled(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    if function in VIEWS:
        return partial(_viewed, function)
    return function if function in LEFT else jax.jit(function, static_argnames=static)


def _viewed(function: Callable[..., Any], x: Any, *given: Any) -> Any:
    return function(x, *given) if isinstance(x, Tracer) else jax.device_put(function(np.asarray(x), *given))


def one_by_one(operations: Operations) -> Operations:
    """The same, each function compiled once, however many places it has; arguments that are no arrays are static.

    For a decoder that runs them outside a trace, one after the other, where one of them is often replaced: what is
    replaced runs primitive by primitive, and the rest is compiled once for all such decoders.
    """
    own = {field.name: getattr(operations, field.name) for field in fields(Operations)}
    made = {name: one if name in WIRING else _compiled(one, STATIC.get(name, ())) for name, one in own.items()}
    if made["norm_heads"] is norm_all_heads:
        made["norm_heads"] = partial(norm_all_heads, join=_compiled(join_heads), split=_compiled(split_heads))
    return Operations(**made)
