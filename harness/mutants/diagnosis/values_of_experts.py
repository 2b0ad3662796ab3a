"""Bugs of experts and of latent attention with a free value: (value) -> what is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.architecture import Architecture
from harness.families.options import Experts
from harness.mutants.experts import each, experts_loaded
from harness.mutants.mutant import Change, OptionChange
from harness.mutants.routing import of_experts


def _option(options: Callable[[Architecture], Architecture]) -> Change:
    return OptionChange(options, "the model has that value")


def routing_factor(value: float) -> Change:
    return _option(of_experts(lambda e: replace(e, factor=value)))


def chosen(value: float) -> Change:
    return _option(of_experts(lambda e: replace(e, chosen=min(round(value), e.count))))


def _clamp(change: Callable[[float, float], tuple[float, float]]) -> Callable[[Experts], Experts]:
    return lambda e: replace(e, clamp=e.clamp and change(*e.clamp))


def alpha(value: float) -> Change:
    return _option(of_experts(_clamp(lambda _, limit: (value, limit))))


def limit(value: float) -> Change:
    return _option(of_experts(_clamp(lambda alpha, _: (alpha, value))))


def experts_further(value: float) -> Change:
    """Every expert has the matrices of the one that stands so many further."""
    return experts_loaded(each(lambda tensor: np.roll(tensor, -round(value), axis=0)))


def expert_zero(value: float) -> Change:
    def without(tensor: np.ndarray) -> np.ndarray:
        found = tensor.copy()
        found[round(value) % len(tensor)] = 0
        return found

    return experts_loaded(each(without))


def latent_eps(value: float) -> Change:
    return _option(
        lambda arch: replace(arch, mla=arch.mla and replace(arch.mla, norm=replace(arch.mla.norm, eps=value)))
    )
