"""StarCoder2: LayerNorm, biases everywhere, an MLP without a gate, and a sliding window in all layers."""

from __future__ import annotations

from harness.families.family import LAYER, Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, decoder, flag, layer_norm, layers_of
from harness.families.windows import everywhere
from harness.fields import Config, boolean

BIASED = ATTENTION | {"up", "mlp_out"}


def read(config: Config) -> Architecture:
    return decoder(
        config,
        norm=layer_norm(config, "norm_epsilon"),
        windows=everywhere(config, layers_of(config)),
        gated=False,
        biases=BIASED if boolean(config, "use_bias") else frozenset(),
        tied_head=flag(config, "tie_word_embeddings", True),  # Starcoder2Config's default
    )


FAMILIES = (
    Family(
        model_type="starcoder2",
        classes=("Starcoder2ForCausalLM", "Starcoder2Model"),
        read=read,
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
