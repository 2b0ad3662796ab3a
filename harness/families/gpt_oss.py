"""gpt-oss: sinks in the softmax; clamped experts with biases, each gate with its up beside it."""

from __future__ import annotations

from harness.families import ATTENTION, TRAINED, Family
from harness.families.neutral import MXFP4
from harness.families.options import Architecture
from harness.families.reading import biased, decoder, mixture, rms_norm, ropes_of
from harness.families.windows import by_pattern, widths
from harness.fields import Config, integer, number, wrong


def _agreed(config: Config, field: str, other: str, value: float | None) -> None:
    """Refuse a field that says once more, and differently, what another one says."""
    if config.get(other) is not None and config[other] != value:
        problem = "the config says this twice, and differently"
        raise wrong(problem, f"{field} and {other}", "one value", [value, config[other]])


def read(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 64
    ropes = ropes_of(config, kinds=("default", "yarn"))
    original = dict(ropes[0].parameters).get("original_max_position_embeddings")
    _agreed(config, "num_experts_per_tok", "experts_per_token", integer(config, "num_experts_per_tok"))
    _agreed(config, "original_max_position_embeddings", "initial_context_length", original)
    # GptOssConfig's defaults: of alpha and limit published configs have the latter alone.
    alpha = number(config, "swiglu_alpha", 0.0, 100.0) if config.get("swiglu_alpha") is not None else 1.702
    limit = number(config, "swiglu_limit", 0.0, 1e6) if config.get("swiglu_limit") is not None else 7.0
    return decoder(
        config,
        norm=rms_norm(config, weighted_wide=True),
        ropes=ropes,
        windows=widths(config, by_pattern(config, 2)),
        biases=biased(config, absent=True),
        sinks=True,
        activation="silu",
        experts=mixture(config, score="softmax_of_chosen", bias=True, clamp=(alpha, limit)),
    )


FAMILIES = (
    Family(
        model_type="gpt_oss",
        classes=("GptOssForCausalLM", "GptOssModel"),
        read=read,
        layer={**ATTENTION, "probs": "self_attn"},
        sparse={
            **dict.fromkeys(("router_logits", "routing"), "mlp.router"),
            "experts_out": "mlp.experts",
            "mlp_out": "mlp",
        },
        interleaved=True,
        experts_transposed=True,
        names={"num_local_experts": "num_experts"},
        quantised=(MXFP4,),
        harmless=TRAINED,
        only={"hidden_act": "silu"},
    ),
)
