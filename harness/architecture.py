"""The architecture that a config.json describes, whichever dialect it is written in.

Checkpoints on the hub carry `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes
`rope_parameters` and `dtype`. Both are read; a field that is in neither place is refused, because
the default that would fill it is exactly how a wrong theta goes unnoticed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.fields import Config as Config
from harness.fields import integer, number, required
from harness.taps import Tap, decoder_taps
from harness.windows import Windows, windows_of

FAMILIES = ("qwen2",)


@dataclass(frozen=True)
class Architecture:
    """What decides the function that a decoder computes, apart from its parameters.

    Attributes:
        windows: by layer, how many keys a query sees at most, its own included; None where it sees all before it.
    """

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
    windows: Windows

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
        CheckpointError: an unknown family, a missing or contradictory field, or a feature that nothing here
            computes.
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
    _refuse_scaled_rope(config)
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    layers = integer(config, "num_hidden_layers")
    return Architecture(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=integer(config, "num_key_value_heads"),
        head_dim=integer(config, "head_dim") if config.get("head_dim") else hidden // heads,
        intermediate=integer(config, "intermediate_size"),
        vocab=integer(config, "vocab_size"),
        rope_theta=_rope_theta(config),
        rms_norm_eps=number(config, "rms_norm_eps"),
        activation=str(required(config, "hidden_act")),
        tied_head=bool(required(config, "tie_word_embeddings")),
        windows=windows_of(config, layers),
    )


def difference(golden: Config, candidate: Config) -> list[tuple[str, object, object]]:
    """The fields in which two configs describe different functions: (field, golden, candidate)."""
    expected, found = asdict(architecture_of(golden)), asdict(architecture_of(candidate))
    return [(name, expected[name], found[name]) for name in expected if expected[name] != found[name]]


def _refuse_scaled_rope(config: Config) -> None:
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
