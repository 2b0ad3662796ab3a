"""Phi 1 and 2: attention and MLP side by side after one LayerNorm, biases everywhere, the head's among them.
Phi 3 and 4: Llama with one matrix for queries, keys and values, one for gate and up, and perhaps a window;
LongRoPE (Ding et al. 2024): factors up to the original length, and others beyond."""

from __future__ import annotations

import math

from harness.families import LAYER, MODEL, Family
from harness.families.frequencies import ORIGINAL
from harness.families.options import Architecture, Rope
from harness.families.reading import ATTENTION, decoder, heads_of, layer_norm, ropes_of
from harness.families.rope import PARTIAL, TABLES, TYPES, UNKNOWN, described, kind_of, theta_of, turned
from harness.families.windows import everywhere, layers_of
from harness.fields import Config, integer, number, table, wrong

FUSED = dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj") | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")
NAMES = ("longrope", "su", "yarn")  # Phi3Config reads the last two as the first
FACTORS = ("short_factor", "long_factor")
KNOWN = frozenset({*TYPES, "rope_theta", PARTIAL, ORIGINAL, *FACTORS, "factor", "attention_factor"})


def _longrope(config: Config, head_dim: int) -> Rope | None:
    """The rotation of every layer; None where the config asks for another kind.

    Raises:
        CheckpointError: a field is missing, of another type or length, or not known; two tables.
    """
    tables = {name: table(config, name) for name in TABLES}
    name, given = described(tables)
    if kind_of(given) not in NAMES:
        return None
    for field, value in given.items():
        if field not in KNOWN and value is not None:
            raise wrong(UNKNOWN, f"{name}.{field[:80]}", ", ".join(sorted(KNOWN)), value)
    dims = turned(config, given, name, head_dim, 1.0)
    # Phi3Config: the field at the top goes before the one in the table.
    original = integer(config if config.get(ORIGINAL) is not None else given, ORIGINAL)
    if given.get("factor") is None:
        factor = integer(config, "max_position_embeddings") / original
    else:
        factor = number(given, "factor", 1.0, 1e9)
    if given.get("attention_factor") is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    else:
        attention = number(given, "attention_factor", 0.0, 1e9)
    short, long = (_factors(given, name, field, dims // 2) for field in FACTORS)
    return Rope(
        theta=theta_of(config, tables),
        dims=dims,
        kind="longrope",
        parameters=(("attention_factor", attention), (ORIGINAL, float(original))),
        factors=(short, long),
    )


def _factors(given: Config, name: str, field: str, count: int) -> tuple[float, ...]:
    listed, where = given.get(field), f"{name}.{field}"
    if not isinstance(listed, list) or len(listed) != count:
        raise wrong("this list does not have a factor for every pair", where, f"{count} numbers", listed)
    return tuple(number({where: value}, where, 1e-6, 1e6) for value in listed)


def read(config: Config) -> Architecture:
    return decoder(
        config,
        norm=layer_norm(config),
        placement="parallel",
        ropes=ropes_of(config, partial=0.5),  # PhiConfig's default
        gated=False,
        biases=ATTENTION | {"up", "mlp_out", "logits"},
    )


def read_3(config: Config) -> Architecture:
    layers, scaled = layers_of(config), _longrope(config, heads_of(config)[-1])
    ropes = (scaled,) * layers if scaled else ropes_of(config, partial=1.0)
    return decoder(config, ropes=ropes, windows=everywhere(config))


FAMILIES = (
    Family(
        model_type="phi",
        classes=("PhiForCausalLM", "PhiModel"),
        read=read,
        activation="mlp.activation_fn",
        layer={
            **{kind: path for kind, path in LAYER.items() if kind not in ("gate", "mlp_norm")},
            "attn_out": "self_attn.dense",
            "up": "mlp.fc1",
            "mlp_out": "mlp.fc2",
        },
        model={**MODEL, "final_norm": "model.final_layernorm"},
    ),
    Family(
        model_type="phi3",
        classes=("Phi3ForCausalLM", "Phi3Model"),
        read=read_3,
        layer={**LAYER, **FUSED},
        activation="mlp.activation_fn",
        # Without longrope it changes nothing.
        harmless=frozenset({"original_max_position_embeddings"}),
    ),
)
