"""Precision settings: part of the check, and reported with it.

A float32 check under a reduced matmul precision (TPU: bfloat16 passes; GPU: TF32) would compare the hardware's
default and not the port. Where nothing is configured, `highest` is put in force for float32 and float64. Where
something is, it is used if it is full precision and refused if it is reduced: overriding it silently would check
another program than the one that runs. float64 needs x64.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float, Num

from harness.errors import PortError, UsageError

VARIABLE = "JAX_DEFAULT_MATMUL_PRECISION"
FULL = "highest"

# Names as `jax_default_matmul_precision` takes them. Six bfloat16 products are what `highest` itself is on a TPU;
# three are what `high` is there.
_FULL_FLOAT32 = frozenset({FULL, "float32", "F32_F32_F32", "F64_F64_F64", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"})
_FULL_FLOAT64 = frozenset({FULL, "float32", "F64_F64_F64"})  # "float32" is another name for `highest`
# These mean what the backend makes of them, and JAX applies them to float32 operands alone.
_BACKENDS_OWN = frozenset({"default", "fastest", "high"})


@dataclass(frozen=True)
class Settings:
    """What was in force while a port ran."""

    dtype: str
    x64: bool
    matmul_precision: str


def is_reduced(backend: str, matmul_precision: str, dtype: str = "float32") -> bool:
    """Whether products of operands of a dtype lose precision under a matmul precision.

    Args:
        backend: as `jax.default_backend()` says: cpu, gpu, tpu, or another.
        matmul_precision: as `jax_default_matmul_precision` takes it, or a `DotAlgorithm` spelled like a preset.
            A name that is not known here counts as reduced.
        dtype: float32 or float64.
    """
    name = "default" if matmul_precision == "DEFAULT" else matmul_precision
    if name in _BACKENDS_OWN:
        return backend != "cpu" and dtype == "float32"
    return name not in (_FULL_FLOAT64 if dtype == "float64" else _FULL_FLOAT32)


def refuse_reduced(precision: str, allow_reduced: bool = False) -> None:
    """Refuse to check float32 or float64 under a reduced matmul precision that the user configured.

    Args:
        precision: float64, float32 or bfloat16 (which is checked as it is deployed, whatever is configured).
        allow_reduced: waive it for float32. float64 asks whether the function is the same: there is no waiver.

    Raises:
        UsageError: a reduced precision is configured, by whatever means, and not waived.
    """
    configured, backend = jax.config.jax_default_matmul_precision, jax.default_backend()
    waived = allow_reduced and precision == "float32"
    if precision == "bfloat16" or waived or configured is None or not is_reduced(backend, configured, precision):
        return
    from_environment = os.environ.get(VARIABLE) == configured
    remedy = f"unset {VARIABLE}" if from_environment else "remove that setting"
    as_deployed = "check float32 as it is deployed: --precision float32 --allow-reduced-precision"
    raise UsageError(
        f"a reduced matmul precision is configured: it, and not the port, would decide the {precision} check",
        where=f"the environment variable {VARIABLE}"
        if from_environment
        else "jax.config.update or jax.default_matmul_precision, in this process or where the port is imported",
        expected=f"{FULL}, or nothing: {FULL} is then put in force",
        found=f"{configured} on {backend}",
        hint=f"{remedy}, or {as_deployed}",
    )


@contextlib.contextmanager
def in_force(precision: str, allow_reduced: bool = False) -> Iterator[Settings]:
    """Run a block at a precision: x64 for float64, full matmul precision for float64 and float32.

    bfloat16 is checked as it is deployed: the matmul precision stays as the user configured it. So is float32
    with `allow_reduced`, and where nothing is configured the backend's own default is then in force.

    Raises:
        UsageError: see `refuse_reduced`.
    """
    refuse_reduced(precision, allow_reduced)
    configured = jax.config.jax_default_matmul_precision
    as_deployed = precision == "bfloat16" or (precision == "float32" and allow_reduced)
    wanted = configured if configured is not None or as_deployed else FULL
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision(wanted):
        yield Settings(
            dtype=precision,
            x64=bool(jax.config.jax_enable_x64),
            matmul_precision=str(jax.config.jax_default_matmul_precision or "default"),
        )


@contextlib.contextmanager
def unchanged(precision: str, allow_reduced: bool = False) -> Iterator[None]:
    """Look again at what is configured when a port has run: JAX's configuration is not a port's to change.

    What `in_force` puts in force wins over `jax.config.update`, so that the check itself saw nothing of it; the
    port as it is deployed would. The configuration is put back, for whatever runs next.

    Raises:
        PortError: the port has configured a reduced precision, which the check was not asked to allow.
    """
    before = jax.config.jax_default_matmul_precision
    try:
        yield
    finally:
        after = jax.config.jax_default_matmul_precision
        if after != before:
            jax.config.update("jax_default_matmul_precision", before)
    waived = precision == "bfloat16" or (precision == "float32" and allow_reduced)
    if after == before or waived or not is_reduced(jax.default_backend(), after or "default", precision):
        return
    raise PortError(
        f"the port configures a reduced matmul precision while it runs, in the {precision} check",
        where="jax.config.update, inside forward or what it calls",
        expected=f"{before or 'nothing'}, as it was before",
        found=f"{after} on {jax.default_backend()}",
        hint="remove that setting, with which the port was not checked and would be deployed; or check float32 as "
        "it is deployed: --precision float32 --allow-reduced-precision",
    )


def waiver(settings: Settings) -> str:
    """What a report says of float32 that was checked with `allow_reduced`."""
    backend = jax.default_backend()
    reduced = "" if is_reduced(backend, settings.matmul_precision) else ", which is full precision there"
    return f"waived: float32 ran at matmul precision {settings.matmul_precision} on {backend}{reduced}"


def jax_dtype(precision: str) -> jnp.dtype:
    return jnp.dtype(precision)


def round_to(truth: Float[np.ndarray, "..."], precision: str) -> Num[np.ndarray, "..."]:
    """Truth as a value of that precision: float64 -> float32 -> bfloat16, as the recorder rounds it."""
    if precision == "float64":
        return np.asarray(truth, np.float64)
    single = truth.astype(np.float32)
    return single.astype(ml_dtypes.bfloat16) if precision == "bfloat16" else single
