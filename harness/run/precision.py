"""Precision settings: put in force for a check, and reported with it.

A float32 check under a reduced matmul precision (TPU: bfloat16 passes; GPU: TF32) would compare the hardware's
default and not the port, so it is always run at `highest`. float64 needs x64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float, Num


@dataclass(frozen=True)
class Settings:
    """What was in force while a port ran."""

    dtype: str
    x64: bool
    matmul_precision: str


@contextlib.contextmanager
def in_force(precision: str) -> Iterator[Settings]:
    """Run a block at a precision: x64 for float64, matmul precision `highest` for float64 and float32.

    bfloat16 is checked as it is deployed: the matmul precision stays as the user configured it.
    """
    configured = jax.config.jax_default_matmul_precision
    wanted = configured if precision == "bfloat16" else "highest"
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision(wanted):
        yield Settings(
            dtype=precision,
            x64=bool(jax.config.jax_enable_x64),
            matmul_precision=str(jax.config.jax_default_matmul_precision or "default"),
        )


def jax_dtype(precision: str) -> jnp.dtype:
    return jnp.dtype(precision)


def round_to(truth: Float[np.ndarray, "..."], precision: str) -> Num[np.ndarray, "..."]:
    """Truth as a value of that precision: float64 -> float32 -> bfloat16, as the recorder rounds it."""
    if precision == "float64":
        return np.asarray(truth, np.float64)
    single = truth.astype(np.float32)
    return single.astype(ml_dtypes.bfloat16) if precision == "bfloat16" else single
