"""A small decoder in the ways of models that have no place for what is looked for; its numbers mean nothing.

What a layer adds is summed up outside of it, one RoPE serves all layers, a tied embedding is called as the head as
well, heads are padded with zeros as kernels want them, and outputs have names.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

HIDDEN, VOCAB, HEADS, HEAD_DIM, PAD = 48, 512, 6, 8, 3


def rotate(x, positions):
    return x * jnp.cos(positions)[..., None, None].astype(x.dtype)


class Scale:
    """A method of a class that is no module."""

    @staticmethod
    def halved(x, by=2):
        return x / by

    @classmethod
    def doubled(cls, x):
        return 2 * x

    def negated(self, x):
        return -x


@dataclass
class Output:
    hidden: jax.Array
    cache: object = None


class Rope(nnx.Module):
    def __call__(self, x, positions):
        return rotate(x, positions)


class Embedding(nnx.Module):
    def __init__(self, table):
        self.table = nnx.Param(table)

    def __call__(self, x):
        return self.table[...][x] if jnp.issubdtype(x.dtype, jnp.integer) else x @ self.table[...].T


class Heads(nnx.Module):
    """Heads of 8 in 11: [batch, position, head, head_dim and zeros]."""

    def __init__(self, junk):
        self.junk = junk

    def __call__(self, x):
        x = jnp.pad(x.reshape(*x.shape[:2], HEADS, HEAD_DIM), [(0, 0)] * 3 + [(0, PAD)])
        return x.at[..., -1].set(self.junk) if self.junk else x


class Layer(nnx.Module):
    def __init__(self, scale, junk):
        self.scale, self.heads = scale, Heads(junk)

    def __call__(self, x, rope, positions, cache):
        q = self.heads(x)
        q, k = rope(q, positions), rope(2 * q[:, :, :2, :HEAD_DIM], positions)
        y = q[..., :HEAD_DIM] * jnp.tile(k, (1, 1, 3, 1))
        y = Scale().negated(Scale.doubled(Scale.halved(y))).reshape(x.shape) * self.scale
        return Output(y) if cache is None else Output(y, cache)


class Summed(nnx.Module):
    def __call__(self, x):
        return x / (1 + jnp.abs(x))


class Model(nnx.Module):
    def __init__(self, layers, junk=0.0, looks=False):
        table = np.random.default_rng(0).standard_normal((VOCAB, HIDDEN))
        self.embedding, self.rope, self.norm = Embedding(jnp.asarray(table, jnp.float32)), Rope(), Summed()
        self.layers = nnx.List([Layer(0.5 + index, junk) for index in range(layers)])
        self.looks = looks

    def __call__(self, ids, positions, cache=None):
        if self.looks:  # at values, which cannot be done while it is traced
            positions = np.array(positions)
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x, self.rope, positions, cache).hidden
        return self.embedding(self.norm(x))
