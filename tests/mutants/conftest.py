from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from harness.mutants.audit import AuditQuestion, audit

# Short prompts recorded at every operation: enough positions for a mask, a scale and RoPE to show.
CASES = ("one-to-five", "multi-token")


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """No dtype is promoted by accident in a mutant."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def whole_catalogue(golden_path, checkpoint):
    """Every mutant on two short prompts, in float64."""
    with jax.numpy_dtype_promotion("strict"):
        return audit(golden_path, checkpoint, AuditQuestion(precisions=("float64",), cases=CASES))
