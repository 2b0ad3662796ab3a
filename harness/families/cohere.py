"""Cohere's Command R: attention and MLP side by side after one norm, pairs of neighbours turned in float32.
Command R7B (`cohere2`): windows, and no RoPE in the layers without one."""

from __future__ import annotations

from harness.families import HEAD_NORMS, LAYER, Family
from harness.families.options import Architecture
from harness.families.reading import biased, decoder, factor, flag, layer_norm, ropes_of
from harness.families.windows import by_pattern, widths
from harness.fields import Config


def read(config: Config) -> Architecture:
    ropes = ropes_of(config, interleaved=True, wide="products")
    normed = flag(config, "use_qk_norm", False)  # CohereConfig's default
    return _read(
        config, ropes=ropes, qk_norm=layer_norm(config, bias=False) if normed else None, qk_norm_over="each"
    )


def read_2(config: Config) -> Architecture:
    slides = by_pattern(config, 4)  # Cohere2Config's default
    rope = ropes_of(config, interleaved=True, wide="products")[0]
    ropes = tuple(rope if sliding else None for sliding in slides)
    return _read(config, ropes=ropes, windows=widths(config, slides))


def _read(config: Config, **options: object) -> Architecture:
    return decoder(
        config,
        norm=layer_norm(config, bias=False),
        placement="parallel",
        biases=biased(config),  # both configs' default is none
        logit_scale=factor(config, "logit_scale"),
        tied_head=flag(config, "tie_word_embeddings", True),  # both configs' default
        **options,
    )


PARALLEL = {**{kind: path for kind, path in LAYER.items() if kind != "mlp_norm"}, **HEAD_NORMS}
FAMILIES = (
    Family(model_type="cohere", classes=("CohereForCausalLM", "CohereModel"), read=read, layer=PARALLEL),
    Family(model_type="cohere2", classes=("Cohere2ForCausalLM", "Cohere2Model"), read=read_2, layer=PARALLEL),
)
