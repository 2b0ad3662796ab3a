from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from harness.mutants.audit import AuditQuestion, audit

# Short cases recorded at every operation: enough positions for a mask, a scale and RoPE to show; padding on the
# left, far positions, and a cache.
CASES = ("one-to-five", "multi-token", "batch-left", "offset", "decode", "chunked", "batch-decode")


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """No dtype is promoted by accident in a mutant."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def whole_catalogue(golden_path, checkpoint):
    """Every mutant on a few short cases, in float64."""
    with jax.numpy_dtype_promotion("strict"):
        return audit(golden_path, checkpoint, AuditQuestion(precisions=("float64",), cases=CASES))
