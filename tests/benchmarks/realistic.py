"""Checkpoints of realistic shape, and prompts for them, made from a seed. For `tests.benchmarks.calibration`."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from harness.corpus import Corpus
from harness.entries import Batch, Decode, Prompt
from harness.record import tiny
from harness.record.tiny import Size

BYTES, VOCAB = 256, 264  # every byte is a token, so that prompts are as long as they look
SHORT = (1, 1, 2, 3, 4, 5, 5, 7, 9, 12, 17, 24)
LONG = (60, 120, 300, 600)
KEPT = 24  # positions of a long prompt whose taps are stored


@dataclass(frozen=True)
class Shape:
    """What a checkpoint looks like, and the dtype that it is stored in."""

    size: Size
    dtype: str


def _shape(hidden: int, heads: int, kv_heads: int, intermediate: int, layers: int, dtype: str) -> Shape:
    return Shape(Size(hidden, heads, kv_heads, hidden // heads, intermediate, layers, VOCAB), dtype)


# Heads of 64 and of 128; sums of 256 to 4,864 products. The last is Qwen2.5-0.5B but for its vocabulary.
SHAPES = (
    _shape(256, 4, 2, 688, 24, "bfloat16"),
    _shape(256, 2, 1, 640, 24, "float32"),
    _shape(384, 6, 2, 1024, 26, "float32"),
    _shape(512, 4, 2, 1216, 24, "bfloat16"),
    _shape(320, 5, 1, 864, 28, "bfloat16"),
    _shape(384, 3, 1, 1056, 32, "bfloat16"),
    _shape(512, 8, 4, 1376, 24, "float32"),
    _shape(256, 4, 1, 2816, 36, "bfloat16"),
    _shape(896, 14, 2, 4864, 24, "bfloat16"),
)
HEAVY = SHAPES[-1]  # ten times as costly as the others: it gets few prompts


def write(directory: Path, shape: Shape, seed: int) -> None:
    """Write a checkpoint of that shape, its weights random and structured."""
    dtype = ml_dtypes.bfloat16 if shape.dtype == "bfloat16" else np.float32
    tensors = {name: tensor.astype(dtype) for name, tensor in tiny.drawn(seed, shape.size).items()}
    size = shape.size
    config = {
        **tiny.config(),
        "bos_token_id": BYTES,
        "eos_token_id": BYTES + 2,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "torch_dtype": shape.dtype,
        "vocab_size": size.vocab,
    }
    tiny.write(directory, config, tensors, tiny.tokenizer((), BYTES))


def corpus(seed: int, long: int, few: bool = False) -> Corpus:
    """Short prompts and one of `long` tokens, rows side by side, and decodes through a cache; or a few of them."""
    random = np.random.default_rng(seed)

    def text(length: int) -> str:
        return "".join(random.choice(list(string.ascii_letters + string.digits), length))

    prompts = [Prompt("one-to-five", "1 2 3 4 5"), *_prompts(text)]
    kept = np.unique(random.integers(0, long, KEPT)).tolist() if long > KEPT else []
    if few:
        return Corpus(tuple(prompts[:6]), (Decode("decode", text(9), steps=4),))
    prompts.append(Prompt("long", text(long), positions=tuple(kept)))
    names = [prompt.name for prompt in prompts[:-1]]
    rows = [tuple(str(name) for name in random.choice(names[7:], 3, replace=False)) for _ in range(2)]
    return Corpus(
        tuple(prompts),
        (Decode("decode", text(9), steps=4), Decode("chunked", text(17), steps=2, chunks=(5,))),
        (
            Batch("left", rows[0], "left"),
            Batch("right", rows[1], "right"),
            Batch("steps", rows[0], "left", steps=3),
        ),
    )


def _prompts(text) -> Iterator[Prompt]:  # type: ignore[no-untyped-def]
    for number, length in enumerate(SHORT):
        yield Prompt(f"p{number}-{length}", text(length))
