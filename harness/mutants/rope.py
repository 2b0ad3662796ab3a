"""Bugs of RoPE: pairing, sign, theta, positions, precision of the table."""

from __future__ import annotations

import jax.numpy as jnp

from harness.mutants.mutant import Mutant, OperationChange, kinds
from harness.mutants.needs import PAIR
from harness.run.operations import Angles, Heads

ROTATED = kinds("q_rope", "k_rope")


def interleaved(x: Heads, angles: Angles) -> Heads:
    cos, sin = jnp.cos(angles).astype(x.dtype)[:, :, None], jnp.sin(angles).astype(x.dtype)[:, :, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


MUTANTS = (
    Mutant(
        "rope_interleaved",
        wrong="pairs (2i, 2i + 1)",
        right="pairs (i, i + head_dim / 2)",
        introduced=ROTATED,
        change=OperationChange({"rotate_q": interleaved, "rotate_k": interleaved}),
        needs=(PAIR,),
        seen=(
            "https://github.com/NeuraLegion/shainet/pull/111",
            "https://github.com/jmaczan/tiny-vllm/issues/4",
            "https://github.com/tenstorrent/tt-metal/issues/26844",
            "https://github.com/huggingface/transformers/issues/25199",
        ),
    ),
    Mutant(
        "rope_missing_last_layer",
        wrong="q, k in the last layer",
        right="R(position) q, R(position) k in every layer",
        introduced=ROTATED,
        change=OperationChange({"rotate_q": lambda x, angles: x, "rotate_k": lambda x, angles: x}),
        layers=(-1,),
        needs=(PAIR,),
        seen=("https://github.com/kvcache-ai/ktransformers/pull/1959",),
    ),
)
