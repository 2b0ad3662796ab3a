"""Makes the checkpoint of the second embedded golden, `goldens/qwen2-window`: `python -m harness.record.windowed`.

A Qwen2 whose first layer sees everything and whose other layers have a sliding window, made as
`harness.record.tiny` makes the first one, and smaller. The window is short: a prompt that is longer than it, and a
decode that crosses its edge, stay small. Every byte is a token, so that prompts are as long as they look.

It is stored in float32, with values that float16 cannot hold. bfloat16 weights of size 1 are exact in float16, so
that on the first checkpoint a loader that takes them through float16 is right. Here weights have the 24 bits of
float32; and in the last layer those of `up` are so small that float16 loses 2 % of them, which bfloat16 still
shows. Those of `down` are as much larger as float16 could hold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.record import tiny

SEED = 20250807
WINDOW, FIRST_WINDOWED = 6, 1
BYTES = 256
UP, DOWN = 2.0**-18, 2.0**16  # what the last layer's weights are multiplied by; both are exact
SIZE = tiny.Size(hidden=24, heads=6, kv_heads=2, head_dim=4, intermediate=36, layers=3, vocab=264)


def config() -> dict[str, Any]:
    """config.json in the hub's dialect."""
    return {
        **tiny.config(),
        "bos_token_id": BYTES,
        "eos_token_id": BYTES + 2,
        "hidden_size": SIZE.hidden,
        "intermediate_size": SIZE.intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": FIRST_WINDOWED,
        "num_attention_heads": SIZE.heads,
        "num_hidden_layers": SIZE.layers,
        "num_key_value_heads": SIZE.kv_heads,
        "sliding_window": WINDOW,
        "torch_dtype": "float32",
        "use_sliding_window": True,
        "vocab_size": SIZE.vocab,
    }


def parameters() -> dict[str, Float[np.ndarray, "..."]]:
    """Every parameter under its Hugging Face name, as float32."""
    tensors = tiny.drawn(SEED, SIZE)
    last = f"model.layers.{SIZE.layers - 1}.mlp"
    tensors[f"{last}.up_proj.weight"] *= UP
    tensors[f"{last}.down_proj.weight"] *= DOWN
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_checkpoint(directory: Path) -> None:
    """Write the checkpoint; its tokenizer needs no training."""
    tiny.write(directory, config(), parameters(), tiny.tokenizer((), BYTES))


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]) if len(sys.argv) > 1 else tiny.GOLDENS / "qwen2-window")
