"""OLMo 2: no norm before attention or MLP, one after each; queries and keys are normed over all heads together.
OLMo 3: windows in three layers of four, and YaRN in the others."""

from __future__ import annotations

from harness.families import HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture, Rope
from harness.families.reading import biased, decoder, heads_of, rms_norm, ropes_of
from harness.families.rope import ropes_by_type
from harness.families.windows import by_pattern, widths
from harness.fields import Config

POST = {
    **{kind: path for kind, path in LAYER.items() if kind not in ("attn_norm", "mlp_norm")},
    **HEAD_NORMS,
    "attn_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def read(config: Config) -> Architecture:
    return _read(config, ropes_of(config, wide="all"))


def read_3(config: Config) -> Architecture:
    slides = by_pattern(config, 4)  # Olmo3Config's default
    kinds = ("default", "yarn")
    ropes = ropes_by_type(config, slides, heads_of(config)[-1], "rope_theta", kinds=kinds, wide="all")
    return _read(config, ropes, windows=widths(config, slides))


def _read(config: Config, ropes: tuple[Rope, ...], **options: object) -> Architecture:
    norm = rms_norm(config, weighted_wide=True)
    return decoder(
        config,
        norm=norm,
        placement="post",
        qk_norm=norm,
        qk_norm_over="all",
        ropes=ropes,
        biases=biased(config),  # Olmo2Config's default is none
        **options,
    )


FAMILIES = (
    Family(model_type="olmo2", classes=("Olmo2ForCausalLM", "Olmo2Model"), read=read, layer=POST),
    Family(
        model_type="olmo3", classes=("Olmo3ForCausalLM", "Olmo3Model"), read=read_3, layer=POST, ropes_by_type=True
    ),
)
