"""Configs that are read wrongly: a default in the place of a field. They work on any port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.architecture import Config
from harness.mutants.mutant import ConfigChange, Mutant, kinds
from harness.mutants.needs import PAIR


def theta(value: float) -> ConfigChange:
    """Another RoPE theta, in whichever dialect the config is written."""

    def fields(config: Config) -> Mapping[str, Any]:
        inner = config.get("rope_parameters")
        top = {"rope_theta": value} if "rope_theta" in config or inner is None else {}
        return {**top, **({"rope_parameters": {**inner, "rope_theta": value}} if inner else {})}

    return ConfigChange(fields)


MUTANTS = (
    Mutant(
        "theta_default",
        wrong="theta = 1e4, the default of the original paper",
        right="theta of the config",
        introduced=kinds("q_rope", "k_rope"),
        change=theta(1e4),
        needs=(PAIR,),
        seen=("https://github.com/google-deepmind/penzai/pull/102",),
    ),
)
