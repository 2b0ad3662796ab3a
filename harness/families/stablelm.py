"""StableLM 2: LayerNorm, a quarter of a head turned, a gated MLP, beside attention where the config says so."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture
from harness.families.reading import decoder, flag, heads_of, layer_norm, layers_of
from harness.families.rope import rope
from harness.fields import Config


def read(config: Config) -> Architecture:
    one = rope(config, heads_of(config)[-1], partial=0.25)  # StableLmConfig's default
    # StableLmConfig's defaults.
    biased, parallel = flag(config, "use_qkv_bias", False), flag(config, "use_parallel_residual", False)
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel" if parallel else "pre",
        ropes=(one,) * layers_of(config),
        biases=frozenset({"q", "k", "v"} if biased else ()),
    )


FAMILIES = (
    Family(
        model_type="stablelm",
        classes=("StableLmForCausalLM", "StableLmModel"),
        read=read,
    ),
)
