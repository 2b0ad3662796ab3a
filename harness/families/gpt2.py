"""GPT-2: learned positions, LayerNorm, biases, an MLP without a gate; matrices are stored the other way round.
StarCoder2: the same with RoPE, and a sliding window in all layers."""

from __future__ import annotations

from harness.families import LAYER, Family
from harness.families.neutral import Named
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, activation_of, decoder, flag, heads_of, layer_norm
from harness.families.windows import everywhere, layers_of
from harness.fields import Config, boolean, integer


def read(config: Config) -> Architecture:
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    # `n_inner` is null in published configs.
    config = Named(config, num_key_value_heads=heads, intermediate_size=4 * hidden)
    return decoder(
        config,
        norm=layer_norm(config, "layer_norm_epsilon"),
        ropes=(None,) * layers_of(config),
        scale=heads_of(config)[-1] ** -0.5 if flag(config, "scale_attn_weights", True) else 1.0,
        activation=activation_of(config, "activation_function"),
        gated=False,
        biases=ATTENTION | {"up", "mlp_out"},
        learned_positions=integer(config, "max_position_embeddings"),
        tied_head=flag(config, "tie_word_embeddings", True),  # GPT2Config's default
    )


def read_starcoder2(config: Config) -> Architecture:
    return decoder(
        config,
        norm=layer_norm(config, "norm_epsilon"),
        windows=everywhere(config),
        gated=False,
        biases=ATTENTION | {"up", "mlp_out"} if boolean(config, "use_bias") else frozenset(),
        tied_head=flag(config, "tie_word_embeddings", True),  # Starcoder2Config's default
    )


SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")  # of another head
FAMILIES = (
    Family(
        model_type="gpt2",
        classes=("GPT2LMHeadModel", "GPT2Model"),
        read=read,
        layer={
            "attn_norm": "ln_1",
            **dict.fromkeys(("q", "k", "v"), "attn.c_attn"),
            "attn_out": "attn.c_proj",
            "mlp_norm": "ln_2",
            "up": "mlp.c_fc",
            "mlp_out": "mlp.c_proj",
        },
        model={
            "embed": "transformer.wte",
            "positions": "transformer.wpe",
            "final_norm": "transformer.ln_f",
            "logits": "lm_head",
        },
        layers="transformer.h",
        stored_transposed=True,
        activation="mlp.act",
        names={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
        },
        stored={r"\.attn\.(masked_)?bias$": None, r"^(?=(wte|wpe|ln_f|h\.\d+)\.)": "transformer."},
        # What the first two ask for differs by layer, or in rounding alone; neither is computed here.
        only={"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
        harmless=frozenset({"n_ctx", *(f"summary_{name}" for name in SUMMARY)}),
    ),
    Family(
        model_type="starcoder2",
        classes=("Starcoder2ForCausalLM", "Starcoder2Model"),
        read=read_starcoder2,
        activation="mlp.act",
        layer={
            **{kind: path for kind, path in LAYER.items() if kind != "gate"},
            "up": "mlp.c_fc",
            "mlp_out": "mlp.c_proj",
        },
        harmless=frozenset({"residual_dropout", "embedding_dropout"}),
        only={"norm_type": "layer_norm", "mlp_type": "default"},
    ),
)
