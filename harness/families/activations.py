"""The activations that are known, in numpy: what a name in a config means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " n"]


def silu(x: Values) -> Values:
    """x sigmoid(x) (Elfwing et al. 2017)."""
    values: Values = x / (1 + np.exp(-x))
    return values


def gelu(x: Values) -> Values:
    """x Phi(x) (Hendrycks & Gimpel 2016)."""
    from scipy.special import erf

    values: Values = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return values


def gelu_tanh(x: Values) -> Values:
    """Their approximation of it."""
    values: Values = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return values


ACTIVATIONS: Mapping[str, Callable[[Values], Values]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
}
