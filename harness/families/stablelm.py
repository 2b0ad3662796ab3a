"""StableLM 2: LayerNorm, a quarter of a head turned, a gated MLP, beside attention where the config says so."""

from __future__ import annotations

from harness.families import Family
from harness.families.options import Architecture
from harness.families.reading import QKV, biased, decoder, flag, layer_norm, ropes_of
from harness.fields import Config


def read(config: Config) -> Architecture:
    # StableLmConfig's defaults.
    ropes, parallel = ropes_of(config, partial=0.25), flag(config, "use_parallel_residual", False)
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel" if parallel else "pre",
        ropes=ropes,
        biases=biased(config, QKV, "use_qkv_bias"),
    )


FAMILIES = (Family(model_type="stablelm", classes=("StableLmForCausalLM", "StableLmModel"), read=read),)
