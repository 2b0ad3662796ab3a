"""A case as the port is called with it: all tokens at once, or call by call through a cache."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from harness.run.contained import blaming_the_port
from harness.run.passes import Pass
from harness.run.port import Call
from harness.run.precision import jax_dtype
from harness.store import Golden


def calls_of(port: Any, golden: Golden, session: Pass, precision: str) -> list[Call]:
    """The calls of a pass; the first has the cache, which is as long as the case and not a token longer.

    One call is all tokens at once, without a cache.

    Raises:
        PortError: `init_cache` raises.
    """
    case, taps = golden.case(session.case.name), session.calls()
    ids, positions = case.input_ids.astype(np.int32), case.positions.astype(np.int32)
    if len(taps) == 1:
        return [Call(jax.device_put(ids), jax.device_put(positions), jax.device_put(case.mask), None, taps[0])]
    with blaming_the_port("init_cache"):
        cache = port.init_cache(case.batch, case.length, jax_dtype(precision))
    return [
        Call(
            jax.device_put(ids[:, span]),
            jax.device_put(positions[:, span]),
            filled(case.mask, span),
            None if span.start else cache,
            tap,
        )
        for span, tap in zip(case.spans, taps, strict=True)
    ]


def filled(mask: np.ndarray, span: slice) -> jax.Array:
    """The mask over all slots of a cache once a call's tokens are in it."""
    slots = np.arange(mask.shape[1]) < span.stop
    return jax.device_put(mask & slots)
