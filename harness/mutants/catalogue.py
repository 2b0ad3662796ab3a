"""Every mutant, family by family in the order of data flow. Ids are stable and never reused."""

from __future__ import annotations

from harness.mutants import (
    attention,
    cache,
    configs,
    embedding_head,
    family_blocks,
    family_heads,
    family_norms,
    family_rope,
    family_scales,
    layouts,
    loading,
    masks,
    mlp,
    norms,
    numerics,
    positions,
    rope,
    sums,
    windows,
    wiring,
)
from harness.mutants.mutant import Mutant

FAMILIES: dict[str, tuple[Mutant, ...]] = {
    "embedding and head": embedding_head.MUTANTS,
    "norms": norms.MUTANTS,
    "weight loading": loading.MUTANTS,
    "weight layouts": layouts.MUTANTS,
    "config": configs.MUTANTS,
    "rope": rope.MUTANTS,
    "positions": positions.MUTANTS,
    "attention": attention.MUTANTS,
    "masks": masks.MUTANTS,
    "sliding window": windows.MUTANTS,
    "cache and decode": cache.MUTANTS,
    "mlp": mlp.MUTANTS,
    "residual stream": wiring.MUTANTS,
    "sums over devices": sums.MUTANTS,
    "numerics": numerics.MUTANTS,
    "norms between families": family_norms.MUTANTS,
    "blocks between families": family_blocks.MUTANTS,
    "heads between families": family_heads.MUTANTS,
    "rope between families": family_rope.MUTANTS,
    "scales between families": family_scales.MUTANTS,
}
CATALOGUE: tuple[Mutant, ...] = tuple(mutant for family in FAMILIES.values() for mutant in family)
