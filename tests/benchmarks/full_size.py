"""Checkpoints of published geometries with random structured weights, and the corpus for each."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file

from harness.architecture import architecture_of, family_of
from harness.corpus import Corpus
from harness.entries import Prompt
from harness.families.parameters import shapes
from harness.record import tiny

BYTES = 256  # every byte is a token, so that a prompt has as many as it has letters
SHARD = 512 * 2**20  # bytes
BIAS_STD, NORM_SPREAD, EMBEDDING_STD, SCORES = 0.5, 0.3, 0.03, 1.3


@dataclass(frozen=True)
class Geometry:
    """A Qwen2.5 as it is published, and the lengths of the prompts that it is tried on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    lengths: tuple[int, ...]

    def config(self, layers: int) -> dict[str, Any]:
        """config.json in the hub's dialect."""
        return {
            **tiny.config(),
            "bos_token_id": BYTES,
            "eos_token_id": BYTES + 2,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 32768,
            "max_window_layers": layers,
            "num_attention_heads": self.heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": self.kv_heads,
            "rope_theta": 1e6,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        }


# The last prompts are as long as those that this project began with ("Hello", "1 2 3 4 5", ...).
GEOMETRIES = {
    "tiny": Geometry(256, 4, 4, 2, 688, 4096, True, (9, 40)),
    "0.5b": Geometry(896, 24, 14, 2, 4864, 151936, True, (9, 87, 261)),
    "1.5b": Geometry(1536, 28, 12, 2, 8960, 151936, True, (9, 87, 261)),
    "7b": Geometry(3584, 28, 28, 4, 18944, 152064, False, (1, 1, 3, 2, 4, 3, 9, 7)),
}


def corpus(geometry: Geometry) -> Corpus:
    """A prompt of each length."""
    random = np.random.default_rng(0)
    letters = list(string.ascii_letters)
    return Corpus(
        tuple(
            Prompt(f"p{number}-{length}", "".join(random.choice(letters, length)))
            for number, length in enumerate(geometry.lengths)
        )
    )


def write(directory: Path, geometry: Geometry, layers: int, seed: int = 0) -> None:
    """Write the checkpoint in bfloat16, shard by shard: no more than one is in memory."""
    config = geometry.config(layers)
    tiny.write(directory, config, {}, tiny.tokenizer((), BYTES))
    (directory / "model.safetensors").unlink(missing_ok=True)
    index: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}

    def close() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, directory / name, {"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    total = 0
    for name, tensor in _parameters(config, seed):
        shard[name] = tensor
        total += tensor.nbytes
        if sum(one.nbytes for one in shard.values()) >= SHARD:
            close()
    if shard:
        close()
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content, indent=2))


def _parameters(config: dict[str, Any], seed: int) -> Iterator[tuple[str, Float[np.ndarray, "..."]]]:
    """Every parameter as bfloat16, drawn when its turn comes."""
    family, arch = family_of(config), architecture_of(config)
    random = np.random.default_rng(seed)
    for name, shape in shapes(family, arch).items():
        if arch.tied_head and name.startswith("lm_head."):
            continue
        yield name, _drawn(random, name, shape).astype(ml_dtypes.bfloat16)


def _drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    if "norm" in name:
        return (1 + NORM_SPREAD * random.uniform(-1, 1, shape)).astype(np.float32)
    drawn: np.ndarray = random.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return drawn * np.float32(BIAS_STD)
    if "embed_tokens" in name:
        return drawn * np.float32(EMBEDDING_STD)
    gain = SCORES if "q_proj" in name or "k_proj" in name else 1.0
    drawn *= np.float32(gain / np.sqrt(shape[-1]))
    return drawn
