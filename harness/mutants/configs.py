"""Configs that are read wrongly: a default in the place of a field. They work on any port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.architecture import Config
from harness.mutants.mutant import ConfigChange, Mutant, kinds
from harness.mutants.needs import PAIR, layers

THETA = "theta of the config"
EPS = "eps of the config"
NORMS = kinds("attn_norm", "mlp_norm", "final_norm")


def theta(value: float) -> ConfigChange:
    """Another RoPE theta, in whichever dialect the config is written."""

    def fields(config: Config) -> Mapping[str, Any]:
        inner = config.get("rope_parameters")
        top = {"rope_theta": value} if "rope_theta" in config or inner is None else {}
        return {**top, **({"rope_parameters": {**inner, "rope_theta": value}} if inner else {})}

    return ConfigChange(fields)


def _one_layer_fewer(config: Config) -> Mapping[str, Any]:
    types = config.get("layer_types")
    fewer = {"num_hidden_layers": config["num_hidden_layers"] - 1}
    return {**fewer, "layer_types": types[:-1]} if types else fewer


MUTANTS = (
    Mutant(
        "theta_1e4",
        wrong="theta = 1e4, what getattr returns where the field has moved",
        right=THETA,
        introduced=kinds("q_rope", "k_rope"),
        change=theta(1e4),
        needs=(PAIR,),
        seen=(
            "https://github.com/google-deepmind/penzai/pull/102",
            "https://github.com/Lightning-AI/litgpt/issues/2217",
            "https://github.com/deepspeedai/DeepSpeed/pull/8345",
            "https://github.com/vllm-project/vllm/pull/28542",
        ),
    ),
    Mutant(
        "theta_5e5",
        wrong="theta = 5e5, that of Llama 3",
        right=THETA,
        introduced=kinds("q_rope", "k_rope"),
        change=theta(5e5),
        needs=(PAIR,),
        seen=("https://github.com/ml-explore/mlx-examples/pull/176",),
    ),
    Mutant(
        "eps_1e5",
        wrong="eps = 1e-5",
        right=EPS,
        introduced=NORMS,
        change=ConfigChange(lambda config: {"rms_norm_eps": 1e-5}),
        seen=(
            "https://github.com/paiml/aprender/pull/1606",
            "https://github.com/apache/tvm/pull/15856",
            "https://github.com/huggingface/transformers/pull/38026",
        ),
    ),
    Mutant(
        "eps_1e12",
        wrong="eps = 1e-12",
        right=EPS,
        introduced=NORMS,
        change=ConfigChange(lambda config: {"rms_norm_eps": 1e-12}),
        seen=("https://github.com/huggingface/candle/pull/271",),
    ),
    Mutant(
        "last_layer_dropped",
        wrong="one layer fewer",
        right="as many layers as the config says",
        introduced=kinds("final_norm"),
        change=ConfigChange(_one_layer_fewer),
        needs=(layers(2),),
        seen=("https://github.com/LukasHedegaard/continual-inference/pull/70",),
    ),
)
