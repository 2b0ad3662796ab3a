"""SmolLM3: Llama in which some layers turn nothing."""

from __future__ import annotations

from harness.families.family import Family
from harness.families.options import Architecture
from harness.families.reading import ATTENTION, MLP, decoder, flag, heads_of, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config, integer, wrong


def _turning(config: Config, layers: int) -> tuple[bool, ...]:
    """By layer, whether it has RoPE: `no_rope_layers` has a 1 where there is one, in spite of its name."""
    listed = config.get("no_rope_layers")
    if listed is None:
        every = integer(config, "no_rope_layer_interval")
        return tuple((index + 1) % every != 0 for index in range(layers))
    config.get("no_rope_layer_interval")  # the list goes before it
    if not isinstance(listed, list) or len(listed) != layers or not all(one in (0, 1) for one in listed):
        raise wrong(
            "this list does not say which layers have RoPE", "no_rope_layers", f"{layers} times 0 or 1", listed
        )
    return tuple(bool(one) for one in listed)


def read(config: Config) -> Architecture:
    layers, one = layers_of(config), rope(config, heads_of(config)[-1], kinds=("default", "yarn"))
    # SmolLM3Config's defaults.
    attention, mlp = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    return decoder(
        config,
        norm=rms_norm(config),
        ropes=tuple(one if turns else None for turns in _turning(config, layers)),
        biases=(ATTENTION if attention else frozenset()) | (MLP if mlp else frozenset()),
        tied_head=flag(config, "tie_word_embeddings", True),
    )


FAMILIES = (
    Family(
        model_type="smollm3",
        classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
        read=read,
        only={"use_sliding_window": False},
        harmless=frozenset({"sliding_window", "max_window_layers", "layer_types"}),
    ),
)
