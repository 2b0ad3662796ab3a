"""Ports whose `context` is float32 whatever the check asks for: right, wrong, and declared."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS
from tests.run.ports import Wrapped, _Hiding


class _Widening(_Hiding):
    """A tap that hides `probs` and hands `context` on in float32."""

    def absorb(self, stage, recorded):
        wide = {kind: jnp.asarray(v, jnp.float32) if kind == "context" else v for kind, v in recorded.items()}
        super().absorb(stage, wide)


class WideContext(Wrapped):
    without = ("probs",)

    def forward(self, input_ids, positions, mask, cache, tap):
        return super().forward(input_ids, positions, mask, cache, _Widening(tap, "probs"))


def _half_of_the_scale(q, k):
    return OPERATIONS.scores(q, k) * jnp.asarray(0.5, q.dtype)


class WideContextHidesABug(WideContext):
    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        operations = replace(OPERATIONS, scores=_half_of_the_scale)
        return cls(Decoder.load(checkpoint, config, dtype, operations=operations))


class DeclaredWideContext(WideContextHidesABug):
    dtypes = {"context": "float32"}


class DeclaresAndDoesNotWiden(Wrapped):
    dtypes = {"context": "float32"}
