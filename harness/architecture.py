"""The architecture that a config.json describes, whichever dialect it is written in.

Checkpoints on the hub carry `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes
`rope_parameters` and `dtype`. Both are read; a field that is in neither place is refused, because
the default that would fill it is exactly how a wrong theta goes unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.taps import Tap, decoder_taps

FAMILIES = ("qwen2",)
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """What decides the function that a decoder computes, apart from its parameters."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float
    rms_norm_eps: float
    activation: str
    tied_head: bool

    @staticmethod
    def kinds() -> frozenset[str]:
        """The kinds of taps that any decoder here may have."""
        return frozenset(tap.kind for tap in decoder_taps(layers=1))

    def taps(self) -> tuple[Tap, ...]:
        """All taps of this architecture, in data-flow order."""
        return decoder_taps(self.layers)

    def sizes(self, batch: int, length: int) -> dict[str, int]:
        """The size of every named dimension for an input of shape [batch, length]."""
        return {
            "batch": batch,
            "position": length,
            "slot": length,
            "key": length,
            "hidden": self.hidden,
            "head": self.heads,
            "kv_head": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate": self.intermediate,
            "vocab": self.vocab,
        }


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The config.json of a checkpoint directory.

    Raises:
        CheckpointError: there is none, or it is not JSON.
    """
    path = checkpoint / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint has no config.json",
            where=checkpoint,
            hint="give a directory in Hugging Face format: config.json, *.safetensors, tokenizer.json",
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"config.json cannot be read: {error}", where=path, hint="copy the checkpoint again"
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError("config.json is not a JSON object", where=path, hint="copy the checkpoint again")
    return config


def architecture_of(config: Config) -> Architecture:
    """The architecture that a config describes, in either dialect.

    Raises:
        CheckpointError: an unknown family, a missing field, or a feature that nothing here computes.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise CheckpointError(
            "this model family is not supported",
            where="config.json: model_type",
            expected=" or ".join(FAMILIES),
            found=family,
            hint="check a Qwen2 or Qwen2.5 checkpoint; other families need taps of their own",
        )
    _refuse_what_is_not_computed(config)
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    return Architecture(
        family=family,
        layers=_integer(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_integer(config, "num_key_value_heads"),
        head_dim=_integer(config, "head_dim") if config.get("head_dim") else hidden // heads,
        intermediate=_integer(config, "intermediate_size"),
        vocab=_integer(config, "vocab_size"),
        rope_theta=_rope_theta(config),
        rms_norm_eps=_number(config, "rms_norm_eps"),
        activation=str(_required(config, "hidden_act")),
        tied_head=bool(_required(config, "tie_word_embeddings")),
    )


def difference(golden: Config, candidate: Config) -> list[tuple[str, object, object]]:
    """The fields in which two configs describe different functions: (field, golden, candidate)."""
    expected, found = asdict(architecture_of(golden)), asdict(architecture_of(candidate))
    return [(name, expected[name], found[name]) for name in expected if expected[name] != found[name]]


def _refuse_what_is_not_computed(config: Config) -> None:
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise CheckpointError(
            "sliding-window attention is not supported yet",
            where="config.json: use_sliding_window",
            expected="false",
            found=config.get("use_sliding_window"),
            hint="check a checkpoint with full attention",
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            "this kind of RoPE scaling is not supported yet",
            where="config.json: rope_parameters.rope_type",
            expected="default",
            found=kind,
            hint="check a checkpoint without RoPE scaling",
        )


def _rope_theta(config: Config) -> float:
    """theta from `rope_parameters` (transformers 5) or from the top level (the hub's dialect)."""
    places = [config.get("rope_parameters") or {}, config]
    found = [float(place["rope_theta"]) for place in places if "rope_theta" in place]
    if not found:
        raise CheckpointError(
            "the config says nowhere what the RoPE theta is",
            where="config.json: rope_theta or rope_parameters.rope_theta",
            expected="a number",
            found="nothing",
            hint="restore the field from the published config.json; a default would be a guess",
        )
    if len(set(found)) > 1:
        raise CheckpointError(
            "the config gives two RoPE thetas",
            where="config.json: rope_parameters.rope_theta and rope_theta",
            expected=found[0],
            found=found[1],
            hint="remove the wrong one",
        )
    return found[0]


def _required(config: Config, field: str) -> Any:
    if config.get(field) is None:
        raise CheckpointError(
            "the config lacks a field",
            where=f"config.json: {field}",
            expected="a value",
            found="nothing",
            hint="restore the field from the published config.json; a default would be a guess",
        )
    return config[field]


def _number(config: Config, field: str) -> float:
    value = _required(config, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(
            "a field of the config is not a number",
            where=f"config.json: {field}",
            expected="a number",
            found=repr(value),
            hint="restore the field from the published config.json",
        )
    return float(value)


def _integer(config: Config, field: str) -> int:
    value = _number(config, field)
    if value != int(value) or value < 1:
        raise CheckpointError(
            "a field of the config is not a positive whole number",
            where=f"config.json: {field}",
            expected="1 or more",
            found=value,
            hint="restore the field from the published config.json",
        )
    return int(value)
