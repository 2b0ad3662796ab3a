"""DeepSeek-V3, and Kimi K2, which is one: latent attention, and experts in all layers but the first few."""

from __future__ import annotations

from dataclasses import replace

from harness.families import latent
from harness.families.family import CORRECTED, EACH, EXPERTS, SHARED, Family
from harness.families.options import Architecture
from harness.families.reading import SIGMOID_ONLY, decoder, flag, layers_of, rms_norm, sigmoid_mixture
from harness.families.rope import rope
from harness.fields import Config

HARMLESS = frozenset({"aux_loss_alpha", "seq_aux", "output_router_logits", "router_aux_loss_coef"})


def read(config: Config) -> Architecture:
    mla, layers = latent.latent(config), layers_of(config)
    # The defaults are those of DeepseekV3Config.
    interleaved = flag(config, "rope_interleave", True)
    one = rope(config, mla.rope, kinds=("default", "yarn"), interleaved=interleaved)
    one = replace(one, deinterleaved=interleaved, last=True)
    return decoder(
        config,
        sizes=latent.sizes(config, mla),
        norm=rms_norm(config),
        ropes=(one,) * layers,
        scale=latent.scale(mla, one),
        biases=latent.BIASED if flag(config, "attention_bias", False) else frozenset(),
        tied_head=flag(config, "tie_word_embeddings", False),
        mla=mla,
        experts=sigmoid_mixture(config),
    )


FAMILIES = (
    Family(
        model_type="deepseek_v3",
        classes=("DeepseekV3ForCausalLM", "DeepseekV3Model"),
        read=read,
        layer=latent.PATHS,
        undivided=latent.UNDIVIDED,
        sparse={**EXPERTS, **CORRECTED, **SHARED},
        each=EACH,
        # The layer for the token after the next, which transformers does not run.
        stored={r"^model\.layers\.61\.": None},
        harmless=HARMLESS,
        only=SIGMOID_ONLY,
    ),
)
