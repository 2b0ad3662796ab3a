"""GPT-NeoX and Pythia: attention and MLP side by side, a LayerNorm each; one matrix for q, k and v.
StableLM 2: LayerNorm, a quarter of a head turned, a gated MLP, beside attention where the config says so."""

from __future__ import annotations

from harness.families import LAYER, Family
from harness.families.neutral import Named
from harness.families.options import Architecture
from harness.families.reading import QKV, biased, decoder, flag, layer_norm, ropes_of
from harness.fields import Config


def read(config: Config) -> Architecture:
    config = Named(config, num_key_value_heads=config.get("num_attention_heads"))
    # GPTNeoXConfig's defaults.
    ropes, parallel = ropes_of(config, partial=0.25), flag(config, "use_parallel_residual", True)
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel_two" if parallel else "pre",
        ropes=ropes,
        gated=False,
        biases=biased(config, absent=True) | {"up", "mlp_out"},
        tied_head=flag(config, "tie_word_embeddings", False),
    )


def read_stablelm(config: Config) -> Architecture:
    # StableLmConfig's defaults.
    ropes, parallel = ropes_of(config, partial=0.25), flag(config, "use_parallel_residual", False)
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel" if parallel else "pre",
        ropes=ropes,
        biases=biased(config, QKV, "use_qkv_bias"),
    )


FAMILIES = (
    Family(
        model_type="gpt_neox",
        classes=("GPTNeoXForCausalLM", "GPTNeoXModel"),
        read=read,
        layer={
            **{kind: LAYER[kind] for kind in ("attn_norm", "mlp_norm")},
            **dict.fromkeys(("q", "k", "v"), "attention.query_key_value"),
            "attn_out": "attention.dense",
            "up": "mlp.dense_h_to_4h",
            "mlp_out": "mlp.dense_4h_to_h",
        },
        model={"embed": "gpt_neox.embed_in", "final_norm": "gpt_neox.final_layer_norm", "logits": "lm_head"},
        layers="gpt_neox.layers",
        by_head=True,
        activation="mlp.act",
        names={"rope_theta": "rotary_emb_base"},
        stored={r"^embed_out\.": "lm_head.", r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$": None},
    ),
    Family(model_type="stablelm", classes=("StableLmForCausalLM", "StableLmModel"), read=read_stablelm),
)
