"""The backend that JAX starts: where it cannot, that is said before anything else is tried."""

from __future__ import annotations

import os

import jax

from harness.errors import UsageError
from harness.run.contained import described

VARIABLE = "JAX_PLATFORMS"


def refuse_no_backend() -> None:
    """Start JAX's backend.

    Raises:
        UsageError: it does not start, such as a TPU that was asked for and is not there.
    """
    try:
        jax.default_backend()
    except RuntimeError as error:
        asked = os.environ.get(VARIABLE)
        raise UsageError(
            "JAX cannot start the backend that was asked for",
            where=f"the environment variable {VARIABLE}={asked}"
            if asked
            else "jax.config, or the installed plugins",
            expected="a device of that platform on this machine",
            found=described(error),
            hint=f"run this where there is one, or unset {VARIABLE}: JAX then takes what the machine has",
        ) from None
