"""Configs that are read wrongly: a default in the place of a field. They work on any port."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from harness.architecture import Config, family_of
from harness.mutants.free import decades
from harness.mutants.introduced import EVERY_NORM, ROTATED, kinds
from harness.mutants.mutant import ConfigChange, FreeValue, Mutant, github
from harness.mutants.needs import PAIR, layers

# What families call the eps of their norms, theta, and the number of layers.
EPS_FIELDS = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon")
THETA_FIELDS = ("rope_theta", "rotary_emb_base")


def theta(value: float) -> ConfigChange:
    """Another RoPE theta, in whichever dialect the config is written."""

    def fields(config: Config) -> Mapping[str, Any]:
        inner = config.get("rope_parameters")
        top = {name: value for name in THETA_FIELDS if name in config}
        return {**top, **({"rope_parameters": _with_theta(inner, value)} if inner else {})}

    return ConfigChange(fields)


def _with_theta(table: Config, value: float) -> dict[str, Any]:
    """A table of RoPE with another theta, or one that has a table for each type of layer."""
    if all(isinstance(inner, Mapping) for inner in table.values()):
        return {name: _with_theta(inner, value) for name, inner in table.items()}
    return {**table, "rope_theta": value}


def eps(value: float) -> ConfigChange:
    """Another eps of every norm."""
    return ConfigChange(lambda config: {name: value for name in EPS_FIELDS if config.get(name) is not None})


def _one_layer_fewer(config: Config) -> Mapping[str, Any]:
    own = family_of(config).names.get("num_hidden_layers", "num_hidden_layers")
    counts = [name for name in (own, "num_hidden_layers") if name in config]
    lists = [name for name in ("layer_types", "no_rope_layers") if config.get(name)]
    return {name: config[name] - 1 for name in counts} | {name: config[name][:-1] for name in lists}


of_theta = partial(Mutant, right="theta of the config", introduced=ROTATED, needs=(PAIR,))
of_eps = partial(Mutant, right="eps of the config", introduced=EVERY_NORM)
MUTANTS = (
    of_theta(
        "theta_1e4",
        wrong="theta = 1e4, what getattr returns where the field has moved",
        change=theta(1e4),
        free=FreeValue("theta =", theta, decades(1, 9), "theta = {}"),
        seen=github(
            "google-deepmind/penzai/pull/102",
            "Lightning-AI/litgpt/issues/2217",
            "deepspeedai/DeepSpeed/pull/8345",
            "vllm-project/vllm/pull/28542",
        ),
    ),
    of_theta(
        "theta_5e5",
        wrong="theta = 5e5, that of Llama 3",
        change=theta(5e5),
        seen=github("ml-explore/mlx-examples/pull/176"),
    ),
    of_eps(
        "eps_1e5",
        wrong="eps = 1e-5",
        change=eps(1e-5),
        free=FreeValue("eps =", eps, (0.0, *decades(-13, -1, 1)), "eps = {}"),
        seen=github("paiml/aprender/pull/1606", "apache/tvm/pull/15856", "huggingface/transformers/pull/38026"),
    ),
    of_eps(
        "eps_1e12",
        wrong="eps = 1e-12",
        change=eps(1e-12),
        seen=github("huggingface/candle/pull/271"),
    ),
    Mutant(
        "last_layer_dropped",
        wrong="one layer fewer",
        right="as many layers as the config says",
        introduced=kinds("final_norm"),
        change=ConfigChange(_one_layer_fewer),
        needs=(layers(2),),
        seen=github("LukasHedegaard/continual-inference/pull/70"),
    ),
)
