"""What a config may say of quantised weights, and what is refused by name. No torch."""

from __future__ import annotations

import pytest

from harness.architecture import architecture_of
from harness.errors import CheckpointError
from tests.families import published, tiny


@pytest.mark.parametrize(
    ("family", "how", "field"),
    [
        ("llama", {**published.FP8}, "quant_method"),
        ("qwen3_moe", {**published.MXFP4}, "quant_method"),
        ("gpt_oss", {**published.FP8}, "quant_method"),
        ("deepseek_v3", {**published.MXFP4}, "quant_method"),
        *(
            ("deepseek_v3", {"quant_method": name}, "quant_method")
            for name in ("gptq", "awq", "compressed-tensors")
        ),
        ("gpt_oss", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method"),
        ("gpt_oss", {}, "quant_method"),
        ("gpt_oss", {"quant_method": 4}, "quant_method"),
        ("gpt_oss", "mxfp4", "quantization_config"),
        ("gpt_oss", {**published.MXFP4, "weight_block_size": [1, 32]}, "weight_block_size"),
        ("gpt_oss", {**published.MXFP4, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ("gpt_oss", {**published.MXFP4, "dequantize": "yes"}, "dequantize"),
        *(
            ("deepseek_v3", {**published.FP8, field: value}, field)
            for field, value in (
                ("fmt", "e5m2"),
                ("activation_scheme", "static"),
                ("scale_fmt", "int8"),
                ("expert_dtype", "fp4"),
                ("modules_to_convert", ["model.embed_tokens"]),
                ("weight_block_size", None),
                ("weight_block_size", 128),
                ("weight_block_size", [128, 0]),
                ("weight_block_size", [128, 128, 128]),
                ("zero_points", True),
            )
        ),
    ],
)
def test_any_other_quantisation_is_refused_by_name(family, how, field):
    config = tiny.config(family, next(iter(tiny.CONFIGS[family])))
    architecture_of(config)
    with pytest.raises(CheckpointError) as refusal:
        architecture_of(config | {"quantization_config": how})
    assert str(refusal.value.where).endswith(field) and refusal.value.hint


def test_what_published_configs_say_besides_is_read():
    more = {"scale_fmt": "ue8m0", "dequantize": True, "modules_to_not_convert": None}
    config = tiny.config("deepseek_v3", "plain") | {"quantization_config": published.FP8 | more}
    assert architecture_of(config) == architecture_of(tiny.config("deepseek_v3", "plain"))
    with pytest.raises(CheckpointError, match="widened to bfloat16 alone"):
        architecture_of(config | {"torch_dtype": "float32"})
