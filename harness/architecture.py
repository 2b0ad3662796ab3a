"""The architecture that a config.json describes, whichever dialect it is written in.

Checkpoints on the hub carry `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes
`rope_parameters` and `dtype`. Both are read; a field that is in neither place is refused, because
the default that would fill it is exactly how a wrong theta goes unnoticed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import recognise, strict_json
from harness.errors import CheckpointError
from harness.fields import Config as Config
from harness.fields import boolean, integer, number, text, wrong
from harness.neutral import refuse_unknown
from harness.regular import MIB, read_regular
from harness.rotation import rope_theta
from harness.taps import Tap, decoder_taps
from harness.windows import Windows, windows_of

FAMILIES = ("qwen2",)
OTHER_FAMILY = "check a Qwen2 or Qwen2.5 checkpoint; other families need taps of their own"
INNER = "this is a model of more than text (text_config): check its language model, saved alone"
LONGEST = 16 * MIB  # of a config.json
MOST_LAYERS = 1024  # every layer has twenty taps; the deepest published models have some 130
EPS = (1e-30, 0.1)


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
        CheckpointError: there is none, it cannot be read, or it is not JSON of one meaning.
    """
    path = checkpoint / "config.json"
    try:
        config = strict_json.parse(read_regular(path, LONGEST))
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint has no config.json", where=checkpoint, hint=recognise.without_config(checkpoint)
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
        CheckpointError: an unknown family, a missing, unknown or contradictory field, an absurd value, or a
            feature that nothing here computes.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise wrong(
            "this model family is not supported",
            "model_type",
            " or ".join(FAMILIES),
            family,
            INNER if "text_config" in config else OTHER_FAMILY,
        )
    refuse_unknown(config)
    layers = integer(config, "num_hidden_layers", most=MOST_LAYERS)
    hidden, heads, kv_heads, head_dim = _heads(config)
    return Architecture(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=integer(config, "intermediate_size"),
        vocab=integer(config, "vocab_size"),
        rope_theta=rope_theta(config),
        rms_norm_eps=number(config, "rms_norm_eps", *EPS),
        activation=text(config, "hidden_act"),
        tied_head=boolean(config, "tie_word_embeddings"),
        windows=windows_of(config, layers),
    )


def difference(golden: Config, candidate: Config) -> list[tuple[str, object, object]]:
    """The fields in which two configs describe different functions: (field, golden, candidate)."""
    expected, found = asdict(architecture_of(golden)), asdict(architecture_of(candidate))
    return [(name, expected[name], found[name]) for name in expected if expected[name] != found[name]]


def _heads(config: Config) -> tuple[int, int, int, int]:
    """Hidden size, heads, KV heads and the size of a head, which divide one another as they must."""
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    kv_heads = integer(config, "num_key_value_heads")
    if heads % kv_heads:
        expected = f"a divisor of num_attention_heads, {heads}"
        raise wrong("the heads cannot be shared out among the KV heads", "num_key_value_heads", expected, kv_heads)
    if config.get("head_dim") is not None:
        head_dim, field = integer(config, "head_dim"), "head_dim"
    elif hidden % heads:
        expected = f"a divisor of hidden_size, {hidden}, or a head_dim"
        raise wrong("the hidden size cannot be shared out among the heads", "num_attention_heads", expected, heads)
    else:
        head_dim, field = hidden // heads, "hidden_size / num_attention_heads"
    if head_dim % 2:
        raise wrong("RoPE turns pairs of dimensions, and a head has an odd number", field, "even", head_dim)
    return hidden, heads, kv_heads, head_dim
