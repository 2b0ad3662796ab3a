"""RoPE in numpy, written from the formulas (`tests.families.formulas`): how fast pairs turn, and the turn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Config = dict[str, Any]


def speeds(theta: float, dims: int, given: Config, c: Config, last: int) -> tuple[list[float], float]:
    """How fast each pair turns, and by how much what is turned gets longer: modeling_rope_utils.py."""
    plain = [theta ** (-2 * pair / dims) for pair in range(dims // 2)]
    kind, factor = given.get("rope_type", given.get("type", "default")), given.get("factor", 1.0)
    original = given.get("original_max_position_embeddings", c.get("original_max_position_embeddings"))
    if kind == "longrope":  # Ding et al. 2024, with the lengths of `Phi3Config`
        divisors = given["long_factor" if last + 1 > original else "short_factor"]
        longer = math.sqrt(1 + math.log(c["max_position_embeddings"] / original, original))
        return [speed / divisor for speed, divisor in zip(plain, divisors, strict=True)], longer
    # The share of each that stays as it is; the rest is divided.
    kept, longer = [1.0] * len(plain), 1.0
    if kind == "linear":  # Chen et al. 2023
        kept = [0.0] * len(plain)
    if kind == "llama3":  # Grattafiori et al. 2024: by how many wavelengths fit into the original length
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        kept = [(original * speed / (2 * math.pi) - low) / (high - low) for speed in plain]
    if kind == "yarn":  # Peng et al. 2023, and their code for where the ramp lies
        fast, slow = (dims * math.log(original / (2 * math.pi * n)) / (2 * math.log(theta)) for n in (32, 1))
        if given.get("truncate", True):
            fast, slow = math.floor(fast), math.ceil(slow)
        first, end = max(fast, 0), min(slow, dims - 1)
        kept = [(end - pair) / (end - first) for pair in range(len(plain))]
        longer = mscale(factor, given.get("mscale", 1)) / mscale(factor, given.get("mscale_all_dim", 0))
    kept = [min(max(keep, 0), 1) for keep in kept]
    return [speed * (keep + (1 - keep) / factor) for speed, keep in zip(plain, kept, strict=True)], longer


def mscale(factor: float, times: float) -> float:
    """How much longer queries and keys are: `yarn_get_mscale` of DeepSeek's own code."""
    return 0.1 * times * math.log(factor) + 1


def turned(x: np.ndarray, turns: np.ndarray, neighbours: bool) -> np.ndarray:
    """Pairs of x [token, head, dim] as complex numbers, times turns [token, pair]; what is beyond them stays."""
    half = turns.shape[1]
    real = np.arange(half) * (2 if neighbours else 1)
    imaginary = real + (1 if neighbours else half)
    both = (x[..., real] + 1j * x[..., imaginary]) * turns[:, None]
    x = x.copy()
    x[..., real], x[..., imaginary] = both.real, both.imag
    return x
