"""Llama 2, 3 and later: no biases unless the config asks for them; four kinds of RoPE.
SmolLM3: some layers turn nothing.
Granite: four multipliers, and in its mixtures the softmax is of the chosen experts alone.
Mistral: no biases, and a sliding window in every layer, unless the config says null.
Ministral 3: YaRN, and queries that grow with their position.
Mixtral: experts in every layer, a few for each token; the scores of these are normed."""

from __future__ import annotations

from dataclasses import replace

from harness.families import ATTENTION as IN_SPARSE
from harness.families import EXPERTS, TRAINED, Family
from harness.families.options import Architecture
from harness.families.reading import MLP, biased, decoder, factor, flag, mixture, ropes_of
from harness.families.windows import everywhere, layers_of
from harness.fields import Config, integer, wrong

ABSENT = 4096  # MistralConfig's default: absent is not null


def _biases(config: Config) -> frozenset[str]:
    """Published configs of Llama 2 have neither field; false is the default of all these configs."""
    return biased(config) | biased(config, MLP, "mlp_bias")


def read(config: Config) -> Architecture:
    ropes = ropes_of(config, kinds=("default", "linear", "llama3", "yarn"))
    return decoder(config, ropes=ropes, biases=_biases(config))


def _turning(config: Config) -> tuple[bool, ...]:
    """By layer, whether it has RoPE: `no_rope_layers` has a 1 where there is one, in spite of its name."""
    listed, layers = config.get("no_rope_layers"), layers_of(config)
    if listed is None:
        interval = integer(config, "no_rope_layer_interval")
        return tuple((index + 1) % interval != 0 for index in range(layers))
    config.get("no_rope_layer_interval")  # the list goes before it
    if not isinstance(listed, list) or len(listed) != layers or not all(entry in (0, 1) for entry in listed):
        problem = "this list does not say which layers have RoPE"
        raise wrong(problem, "no_rope_layers", f"{layers} times 0 or 1", listed)
    return tuple(bool(entry) for entry in listed)


def read_smollm3(config: Config) -> Architecture:
    ropes = ropes_of(config, kinds=("default", "yarn"))
    return decoder(
        config,
        ropes=tuple(rope if turns else None for rope, turns in zip(ropes, _turning(config), strict=True)),
        biases=_biases(config),
        tied_head=flag(config, "tie_word_embeddings", True),  # SmolLM3Config's default
    )


def read_granite(config: Config) -> Architecture:
    return decoder(
        config,
        biases=_biases(config),
        scale=factor(config, "attention_multiplier"),
        embed_scale=factor(config, "embedding_multiplier"),
        residual_scale=factor(config, "residual_multiplier"),
        logit_scale=1 / factor(config, "logits_scaling"),
    )


def read_granitemoe(config: Config) -> Architecture:
    experts = mixture(config, score="softmax_of_chosen")
    return replace(read_granite(config), experts=experts)


def read_mistral(config: Config) -> Architecture:
    return decoder(config, windows=everywhere(config, ABSENT))


def read_ministral3(config: Config) -> Architecture:
    integer(config, "head_dim")  # where there is none, transformers takes 128
    ropes = ropes_of(config, kinds=("yarn",), grows=True)
    return decoder(config, ropes=ropes, windows=everywhere(config))


def read_mixtral(config: Config) -> Architecture:
    return decoder(
        config,
        windows=everywhere(config),  # MixtralConfig's default is none
        experts=mixture(config, renormed=0.0, weights_wide=True),
    )


FAMILIES = (
    Family(model_type="llama", classes=("LlamaForCausalLM", "LlamaModel"), read=read),
    Family(
        model_type="smollm3",
        classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
        read=read_smollm3,
        only={"use_sliding_window": False},
        harmless=frozenset({"sliding_window", "max_window_layers", "layer_types"}),
    ),
    Family(model_type="granite", classes=("GraniteForCausalLM", "GraniteModel"), read=read_granite),
    Family(
        model_type="granitemoe",
        classes=("GraniteMoeForCausalLM", "GraniteMoeModel"),
        read=read_granitemoe,
        layer=IN_SPARSE,
        sparse={
            **dict.fromkeys(("router_logits", "routing"), "block_sparse_moe.router"),
            "experts_out": "block_sparse_moe.experts",
            "mlp_out": "block_sparse_moe",
        },
        stored={
            r"\.router\.layer\.weight$": ".router.weight",
            r"\.block_sparse_moe\.input_linear\.weight$": ".block_sparse_moe.experts.gate_up_proj",
            r"\.block_sparse_moe\.output_linear\.weight$": ".block_sparse_moe.experts.down_proj",
        },
        harmless=TRAINED,
    ),
    Family(model_type="mistral", classes=("MistralForCausalLM", "MistralModel"), read=read_mistral),
    Family(model_type="ministral3", classes=("Ministral3ForCausalLM", "Ministral3Model"), read=read_ministral3),
    Family(
        model_type="mixtral",
        classes=("MixtralForCausalLM", "MixtralModel"),
        read=read_mixtral,
        layer=IN_SPARSE,
        sparse=EXPERTS,
        stored={r"\.block_sparse_moe\.": ".mlp."},
        each={
            "mlp.experts.gate_up_proj": ("mlp.experts.{}.w1.weight", "mlp.experts.{}.w3.weight"),
            "mlp.experts.down_proj": ("mlp.experts.{}.w2.weight",),
        },
        names={"num_local_experts": "num_experts"},
        harmless=TRAINED | {"router_jitter_noise"},
    ),
)
