"""Every mutant, in data-flow order of the families. Ids are stable and never reused."""

from __future__ import annotations

from harness.mutants import configs, loading, norms, rope
from harness.mutants.mutant import Mutant

CATALOGUE: tuple[Mutant, ...] = (
    *norms.MUTANTS,
    *rope.MUTANTS,
    *loading.MUTANTS,
    *configs.MUTANTS,
)
