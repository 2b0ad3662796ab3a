"""Ports that set the precision of their matrix products by themselves, and ports that cannot be traced."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS
from tests.run.ports import Wrapped


def _bfloat16_scores(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="BF16_BF16_F32") * q.shape[-1] ** -0.5


class ReducesItsScores(Wrapped):
    """On a CPU the numbers are those of a right port: only the program shows what it asks for."""

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return cls(
            Decoder.load(checkpoint, config, dtype, operations=replace(OPERATIONS, scores=_bfloat16_scores))
        )


class ReducesAroundItsForward(Wrapped):
    def forward(self, *args):
        with jax.default_matmul_precision("bfloat16"):
            return super().forward(*args)


class ConvertsToNumpy(Wrapped):
    def forward(self, *args):
        logits, cache = super().forward(*args)
        return jnp.asarray(np.asarray(logits)), cache


class ReducesAndConverts(ReducesItsScores, ConvertsToNumpy):
    pass


class KeepsATableForLater(Wrapped):
    """It computes something in its first forward pass and uses it in every later one."""

    one = None

    def forward(self, *args):
        if self.one is None:
            self.one = jnp.ones((), jnp.float32) * 1
        logits, cache = super().forward(*args)
        return logits * self.one, cache


class ConfiguresJaxAsItIsLoaded(Wrapped):
    @classmethod
    def load(cls, *args):
        jax.config.update("jax_default_matmul_precision", "bfloat16")
        return super().load(*args)


class ConfiguresJaxAsItRuns(Wrapped):
    def forward(self, *args):
        jax.config.update("jax_default_matmul_precision", "bfloat16")
        return super().forward(*args)


class ReducesBatches(Wrapped):
    """It takes another way, with another precision, where there are several rows."""

    def forward(self, input_ids, *args):
        logits, cache = super().forward(input_ids, *args)
        if input_ids.shape[0] > 1:
            one = jnp.eye(logits.shape[-1], dtype=logits.dtype)
            logits = jnp.einsum("bsv,vw->bsw", logits, one, precision="BF16_BF16_F32")
        return logits, cache


class ReducesLongPrompts(Wrapped):
    def forward(self, input_ids, *args):
        logits, cache = super().forward(input_ids, *args)
        if input_ids.shape[1] > 4:
            one = jnp.eye(logits.shape[-1], dtype=logits.dtype)
            logits = jnp.einsum("bsv,vw->bsw", logits, one, precision="BF16_BF16_F32")
        return logits, cache
