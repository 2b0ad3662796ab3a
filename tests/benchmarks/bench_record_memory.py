"""Peak memory of a recording at 4 and at 32 layers: `python tests/benchmarks/bench_record_memory.py`.

Each recording runs in a process of its own, and the peak is the operating system's (ru_maxrss). Before it, one
more process only imports what a recording imports: the rest of a peak is the recording's own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from harness import embedded
from harness.corpus import load_corpus

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, VOCAB = 768, 12, 4, 3072, 608
LAYERS = (4, 32)
CASES = ("hello", "code", "long")
PER_LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN * KV_HEADS // HEADS + 3 * HIDDEN * INTERMEDIATE


def write_checkpoint(directory: Path, layers: int) -> None:
    """A Qwen2 of that many layers, every layer of the same size, in bfloat16, with the embedded tokenizer."""
    directory.mkdir()
    tiny = embedded.directory() / "qwen2-tiny"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tiny / name).read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
    }
    (directory / "config.json").write_text(json.dumps(config))
    random = np.random.RandomState(0)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(ml_dtypes.bfloat16)

    tensors = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN), "lm_head.weight": normal(VOCAB, HIDDEN)}
    tensors["model.norm.weight"] = np.ones(HIDDEN, ml_dtypes.bfloat16)
    kv = HIDDEN * KV_HEADS // HEADS
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            tensors[f"{at}self_attn.{name}_proj.weight"] = normal(rows, HIDDEN)
            tensors[f"{at}self_attn.{name}_proj.bias"] = normal(rows)
        tensors[f"{at}self_attn.o_proj.weight"] = normal(HIDDEN, HIDDEN)
        for name in ("input", "post_attention"):
            tensors[f"{at}{name}_layernorm.weight"] = np.ones(HIDDEN, ml_dtypes.bfloat16)
        for name, shape in (("gate", (INTERMEDIATE, HIDDEN)), ("up", (INTERMEDIATE, HIDDEN))):
            tensors[f"{at}mlp.{name}_proj.weight"] = normal(*shape)
        tensors[f"{at}mlp.down_proj.weight"] = normal(HIDDEN, INTERMEDIATE)
    save_file(tensors, directory / "model.safetensors")


def measure(*arguments: str) -> tuple[float, float]:
    """Run this file in a process of its own; returns its peak in MiB and its seconds."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]), time.monotonic() - started


def worker(checkpoint: str, out: str) -> None:
    """In the process that is measured: record, or only import where no checkpoint is given."""
    from harness.record.recorder import Options, record

    if checkpoint:
        corpus = load_corpus(embedded.directory() / "corpus.toml")
        record(Path(checkpoint), "benchmark", corpus, out, Options(cases=CASES))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


def main() -> None:
    table = Table("layers", "checkpoint", "in float64", "peak", "without imports", "seconds")
    own = {}
    with tempfile.TemporaryDirectory() as scratch:
        imports, _ = measure("", "")
        for layers in LAYERS:
            checkpoint = Path(scratch) / f"{layers}"
            write_checkpoint(checkpoint, layers)
            peak, seconds = measure(str(checkpoint), f"{scratch}/{layers}.h5")
            own[layers] = peak - imports
            stored = (checkpoint / "model.safetensors").stat().st_size / 2**20
            table.add_row(
                str(layers),
                f"{stored:.0f} MiB",
                f"{stored * 4:.0f} MiB",
                f"{peak:.0f} MiB",
                f"{own[layers]:.0f} MiB",
                f"{seconds:.0f}",
            )
    console = Console()
    console.print(table)
    ratio = own[LAYERS[1]] / own[LAYERS[0]]
    console.print(f"one layer in float64: {PER_LAYER * 8 / 2**20:.0f} MiB; imports alone: {imports:.0f} MiB")
    console.print(f"peak at {LAYERS[1]} layers / peak at {LAYERS[0]} layers, without imports: {ratio:.2f}")


if __name__ == "__main__":
    worker(*sys.argv[1:3]) if len(sys.argv) > 1 else main()
