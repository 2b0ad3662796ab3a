"""Bugs of RoPE's formula: pairing, sign, frequencies. Positions and precision are in positions.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from harness.families.frequencies import inverse_frequencies
from harness.families.options import Rope
from harness.mutants.free import COUNTS
from harness.mutants.introduced import ROTATED, kinds
from harness.mutants.mutant import FreeValue, Mutant, OperationChange, github
from harness.mutants.needs import PAIR, model_has
from harness.run.operations import Angles, Heads, rotate

PAIRS = "pairs (i, i + head_dim / 2)"
EVEN = tuple(n for n in COUNTS if n % 2 == 0)
ANGLE = "position theta^(-2i / head_dim)"


def both(rotation: Callable[[Heads, Angles], Heads]) -> dict[str, Callable[..., Array]]:
    """The same rotation of queries and keys."""
    return {"rotate_q": rotation, "rotate_k": rotation}


def _tables(x: Heads, angles: Angles) -> tuple[Array, Array]:
    return jnp.cos(angles).astype(x.dtype)[:, :, None], jnp.sin(angles).astype(x.dtype)[:, :, None]


def by_tables(x: Heads, cos: Array, sin: Array) -> Heads:
    """The usual rotation, with tables of cosines and sines."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _none(x: Heads, angles: Angles) -> Heads:
    return x


def _interleaved(x: Heads, angles: Angles) -> Heads:
    cos, sin = _tables(x, angles)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def _mismatched(x: Heads, angles: Angles) -> Heads:
    cos, sin = (jnp.repeat(table, 2, axis=-1) for table in _tables(x, angles))
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


def _swapped(x: Heads, angles: Angles) -> Heads:
    sin, cos = _tables(x, angles)
    return by_tables(x, cos, sin)


def _first_head(x: Heads, angles: Angles) -> Heads:
    return jnp.concatenate([rotate(x[:, :, :1], angles), x[:, :, 1:]], axis=2)


def _half(x: Heads, angles: Angles) -> Heads:
    rotated, rest = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([rotate(rotated, angles[..., ::2]), rest], axis=-1)


def _first(value: float) -> OperationChange:
    """The first `value` features are rotated, with the frequencies of a head of that size."""

    def turn(x: Heads, angles: Angles) -> Heads:
        size = round(value)
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)

    return OperationChange(
        {**both(turn), "inverse_frequencies": lambda theta, head_dim: inverse_frequencies(theta, round(value))}
    )


def _over_half(theta: float, head_dim: int) -> Float[np.ndarray, " half"]:
    half: np.ndarray = inverse_frequencies(theta, head_dim) ** 2
    return half


def _repeated(theta: float, head_dim: int) -> Float[np.ndarray, " half"]:
    """The frequencies of half a head, each for two pairs: the table is doubled once too often."""
    few = inverse_frequencies(theta, max(head_dim // 2, 2))
    return np.concatenate([few, few])[: head_dim // 2]


def _banded(theta: float, head_dim: int) -> Float[np.ndarray, " half"]:
    """Llama 3's three bands: factor 8, low 1, high 4, original context 8,192."""
    frequency = inverse_frequencies(theta, head_dim)
    turns = 8192 * frequency / (2 * np.pi)
    smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
    banded: np.ndarray = (1 - smooth) * frequency / 8 + smooth * frequency
    return banded


def _has_bands(rope: Rope) -> bool:
    return bool(np.any(_banded(rope.theta, rope.dims) != inverse_frequencies(rope.theta, rope.dims)))


SLOW = model_has(
    lambda arch: any(_has_bands(rope) for rope in arch.ropes if rope),
    "every pair turns at least 4 times in 8,192 positions here: Llama 3's bands change no frequency",
)
turned = partial(Mutant, right=ANGLE, introduced=ROTATED, needs=(PAIR,))
MUTANTS = (
    turned(
        "rope_frequencies_repeated",
        wrong="head_dim / 4 frequencies theta^(-4i / head_dim), each for the pairs i and i + head_dim / 4",
        change=OperationChange({"inverse_frequencies": _repeated}),
    ),
    turned(
        "rope_interleaved",
        wrong="pairs (2i, 2i + 1)",
        right=PAIRS,
        change=OperationChange(both(_interleaved)),
        seen=github(
            "NeuraLegion/shainet/pull/111",
            "jmaczan/tiny-vllm/issues/4",
            "tenstorrent/tt-metal/issues/26844",
            "huggingface/transformers/issues/25199",
        ),
    ),
    turned(
        "rope_table_mismatch",
        wrong="pairs (i, i + head_dim / 2) with the table of pairs (2i, 2i + 1)",
        right=PAIRS,
        change=OperationChange(both(_mismatched)),
        seen=github("huggingface/transformers/issues/16288", "NVIDIA-NeMo/Megatron-Bridge/issues/4195"),
    ),
    turned(
        "rope_backwards",
        wrong="R(-position)",
        right="R(position)",
        change=OperationChange(both(lambda x, angles: rotate(x, -angles))),
        seen=github("trymirai/lalamo/pull/268"),
    ),
    Mutant(
        "rope_sin_cos_swapped",
        wrong="first sin - second cos, second sin + first cos",
        right="first cos - second sin, second cos + first sin",
        introduced=ROTATED,
        change=OperationChange(both(_swapped)),
        seen=github("trymirai/lalamo/pull/268"),
    ),
    turned(
        "rope_missing",
        wrong="q, k",
        right="R q, R k",
        change=OperationChange(both(_none)),
        seen=github("kvcache-ai/ktransformers/pull/1959"),
    ),
    turned(
        "rope_missing_on_keys",
        wrong="R q, k",
        right="R q, R k",
        introduced=kinds("k_rope"),
        change=OperationChange({"rotate_k": _none}),
        seen=github("kvcache-ai/ktransformers/pull/1959"),
    ),
    turned(
        "rope_missing_in_last_layer",
        wrong="q, k in the last layer",
        right="R q, R k in every layer",
        change=OperationChange(both(_none)),
        layers=(-1,),
        seen=github("timtoole02/Camelid/pull/535", "pytorch/executorch/issues/22043"),
    ),
    turned(
        "rope_first_head_only",
        wrong="only head 0 is rotated",
        right="every head is rotated",
        change=OperationChange(both(_first_head)),
        seen=github("panbanda/higgs/pull/23"),
    ),
    turned(
        "rope_half_of_dims",
        wrong="half of head_dim is rotated",
        right="all of head_dim is rotated",
        change=OperationChange(both(_half)),
        free=FreeValue("rotated", _first, EVEN, "the first {} features of a head are rotated", counts=True),
        seen=github("AI-Hypercomputer/maxtext/issues/4616", "ml-explore/mlx-lm/pull/1698"),
    ),
    turned(
        "rope_exponent_doubled",
        wrong="position theta^(-4i / head_dim): the dims counted as if half of them were rotated",
        change=OperationChange({"inverse_frequencies": _over_half}),
        seen=github("pie-project/pie/pull/603"),
    ),
    turned(
        "rope_llama3_bands",
        wrong="low frequencies divided by 8, as in Llama 3",
        change=OperationChange({"inverse_frequencies": _banded}),
        needs=(PAIR, SLOW),
        seen=github(
            "felafax/felafax/issues/59", "jmaczan/tiny-vllm/pull/1", "TransformerLensOrg/TransformerLens/pull/910"
        ),
    ),
)
