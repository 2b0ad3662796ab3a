from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from harness.mutants.audit import AuditQuestion, audit
from harness.run.progress import Progress
from tests.conftest import COMPILED

# Short cases recorded at every operation: enough positions for a mask, a scale and RoPE to show; padding on the
# left, far positions, and a cache: chunks and steps, of one row and of several.
CASES = ("one-to-five", "multi-token", "batch-left", "offset", "chunked", "batch-decode")


class Sharing(Progress):
    """An audit is one long fixture: other workers get what it compiled mutant by mutant, and not at its end."""

    def advance(self, at: str) -> None:
        COMPILED.exchange()


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """No dtype and no rank is promoted by accident in a mutant."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def whole_catalogue(golden_path, checkpoint):
    """Every mutant on a few short cases, in float64."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        question = AuditQuestion(precisions=("float64",), cases=CASES)
        return audit(golden_path, checkpoint, question, progress=Sharing())
