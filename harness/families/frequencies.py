"""The frequencies of RoPE: plain ones, and what each kind of scaling makes of them, as transformers does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from harness.families.options import Rope

ORIGINAL = "original_max_position_embeddings"
Frequencies = Float[np.ndarray, " half"]


def frequencies(rope: Rope) -> tuple[Frequencies, float]:
    """The angle per position of every pair, float64 [dims / 2], and the factor on cosine and sine."""
    return scaled(inverse_frequencies(rope.theta, rope.dims), rope)


def inverse_frequencies(theta: float, dims: int) -> Frequencies:
    """theta^(-2i / dims), float64 (Su et al. 2021, RoFormer)."""
    return theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)


def scaled(plain: Frequencies, rope: Rope) -> tuple[Frequencies, float]:
    """What a kind of RoPE makes of these, as transformers' modeling_rope_utils does, and its factor."""
    return SCALED[rope.kind](plain, rope, dict(rope.parameters))


def is_beyond(rope: Rope, last: Any) -> Any:
    """Whether a call whose last position is this (a number, or an array of any library) goes beyond the original
    length."""
    return last + 1 > dict(rope.parameters)[ORIGINAL]


def within(rope: Rope, last: int) -> Rope:
    """The rotation in a call whose last position is this: LongRoPE has two."""
    if rope.factors is None:
        return rope
    own = rope.factors[is_beyond(rope, last)]
    return replace(rope, factors=(own, own))


def both(rope: Rope) -> tuple[Rope, ...]:
    """The rotations that there are: up to the original length and beyond, where that makes a difference."""
    if rope.factors is None:
        return (rope,)
    return tuple(replace(rope, factors=(own, own)) for own in rope.factors)


def grown(positions: Int[np.ndarray, "..."], rope: Rope) -> Float[np.ndarray, "..."]:
    """By how much queries at these positions are longer, float64."""
    beta, length = rope.growth or (0.0, 1.0)
    return 1 + beta * np.log1p(np.floor(positions / length))


def turn(
    x: Float[np.ndarray, "batch position ... head_dim"], angles: Float[np.ndarray, "..."], rope: Rope
) -> Float[np.ndarray, "batch position ... head_dim"]:
    """Queries or keys that are turned already, further by these angles, which have a last axis of pairs and
    broadcast otherwise."""
    cos, sin = np.cos(angles), np.sin(angles)
    cut = x.shape[-1] - rope.dims if rope.last else rope.dims
    head, rest = (x[..., cut:], x[..., :cut]) if rope.last else (x[..., :cut], x[..., cut:])
    if rope.interleaved and not rope.deinterleaved:
        a, b = head[..., ::2], head[..., 1::2]
        both = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(head.shape)
    else:
        a, b = head[..., : rope.dims // 2], head[..., rope.dims // 2 :]
        both = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return np.concatenate([rest, both] if rope.last else [both, rest], axis=-1)


def _default(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    return plain, 1.0


def _linear(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    return plain / given["factor"], 1.0


def _llama3(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    """High frequencies stay, low ones are divided, and between the two lies a ramp."""
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    turns = given[ORIGINAL] * plain / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - share) * plain / given["factor"] + share * plain, 1.0


def _yarn(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    """Peng et al. 2023, YaRN: a ramp over the pairs, and longer queries and keys."""

    def pair(turns: float) -> float:
        """The pair that turns so often within the original length."""
        return rope.dims * math.log(given[ORIGINAL] / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    def longer(scale: float) -> float:
        return 0.1 * scale * math.log(given["factor"]) + 1.0 if given["factor"] > 1 else 1.0

    first, last = pair(given.get("beta_fast", 32.0)), pair(given.get("beta_slow", 1.0))
    if given.get("truncate", 1.0):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dims - 1)
    ramp = np.clip((np.arange(rope.dims // 2) - first) / (last - first or 0.001), 0, 1)
    by_hand = given.get("attention_factor")
    above, below = given.get("mscale", 0.0), given.get("mscale_all_dim", 0.0)
    length = by_hand if by_hand is not None else longer(above) / longer(below) if above and below else longer(1.0)
    return plain * (1 - ramp) + plain / given["factor"] * ramp, length


def _longrope(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    """Of the first of the two: see `within`."""
    assert rope.factors is not None
    return plain / np.array(rope.factors[0]), given["attention_factor"]


SCALED: Mapping[str, Callable[[Frequencies, Rope, Mapping[str, float]], tuple[Frequencies, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
