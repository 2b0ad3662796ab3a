"""Llama 2, 3 and later: no biases unless the config asks for them; four kinds of RoPE."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, MLP, decoder, flag, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config


def read(config: Config) -> Architecture:
    # Published configs of Llama 2 have neither field; false is LlamaConfig's default.
    attention, mlp = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    one = rope(config, heads_of(config)[-1], kinds=("default", "linear", "llama3", "yarn"))
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=(one,) * layers_of(config),
        biases=(ATTENTION if attention else frozenset()) | (MLP if mlp else frozenset()),
    )


FAMILIES = (Family(model_type="llama", classes=("LlamaForCausalLM", "LlamaModel"), read=read),)
